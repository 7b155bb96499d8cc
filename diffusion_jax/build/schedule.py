"""Builds the noise schedule of config.schedule."""

import dataclasses

import jax

import diffusion_jax as dj
from diffusion_jax.build.make import (
  choose,
  construct,
  extended,
  renamed,
)
from diffusion_jax.errors import UserError
from diffusion_jax.networks.gamma import GammaFn, LinearGamma, MonotoneGamma


def _shiftable(constructor):
  def build(*, shift=None, **fields):
    schedule = constructor(**fields)
    return schedule if shift is None else dj.ShiftedSchedule(schedule, shift)

  return extended(build, constructor)


def _discrete(make_betas):
  def build(*, zero_terminal_snr=False, **fields):
    betas = make_betas(**fields)
    if zero_terminal_snr:
      betas = dj.zero_terminal_snr(betas)
    return dj.DiscreteSchedule.from_betas(betas)

  return _shiftable(extended(build, make_betas))


GAMMAS = {
  'fixed': lambda *ends: LinearGamma(*ends, learned=False),
  'scalar': LinearGamma,
  'network': MonotoneGamma,
}


def make_gamma(gamma='scalar', gamma_min=-13.3, gamma_max=5.0):
  """Returns the Flax module of gamma(t) = -log SNR; or ValueError."""
  if not gamma_min < gamma_max:
    raise ValueError(
      f'gamma_min={gamma_min} is not below gamma_max={gamma_max}'
    )
  return choose(GAMMAS, 'schedule', 'gamma', gamma)(gamma_min, gamma_max)


def _learned(**fields):
  gamma = make_gamma(**fields)
  # build_schedule fills in its parameters, if it has any.
  return dj.LearnedSchedule({}, GammaFn(gamma))


# The constructors of config.schedule.name.
SCHEDULES = {
  'linear': _discrete(dj.linear_betas),
  'rescaled_linear': _discrete(dj.rescaled_linear_betas),
  'quadratic': _discrete(dj.quadratic_betas),
  'scaled_linear': _discrete(dj.scaled_linear_betas),
  'cosine': _discrete(dj.cosine_betas),
  'sigmoid': _discrete(dj.sigmoid_betas),
  'constant': _discrete(dj.constant_betas),
  'warmup': _discrete(dj.warmup_betas),
  'reciprocal': _discrete(dj.reciprocal_betas),
  'continuous_cosine': _shiftable(dj.CosineSchedule),
  'linear_vp': _shiftable(dj.LinearVPSchedule),
  'sub_vp': dj.SubVPSchedule,
  'continuous_sigmoid': _shiftable(
    renamed(
      dj.SigmoidSchedule,
      start='sigmoid_start',
      end='sigmoid_end',
      tau='sigmoid_tau',
    )
  ),
  'karras': dj.KarrasSchedule,
  'flow': dj.RectifiedFlowSchedule,
  'geometric_ve': dj.GeometricVESchedule,
  'learned': _shiftable(extended(_learned, make_gamma)),
}

# An explicit list of alphas is a schedule whatever the name is.
EXPLICIT = _shiftable(dj.DiscreteSchedule.from_alphas)


def schedule_constructor(config):
  """Returns the constructor of the schedule."""
  c = config.schedule
  chosen = choose(SCHEDULES, 'schedule', 'name', c.name)
  return chosen if c.alphas is None else EXPLICIT


def build_gamma(c):
  """Builds the Flax module of a learned gamma(t)."""
  return construct(make_gamma, c, 'schedule')


def learns_schedule(config):
  """Returns whether the parameters of a run have a branch 'schedule'."""
  c = config.schedule
  return c.name == 'learned' and c.gamma != 'fixed' and c.alphas is None


def build_schedule(config, params=None):
  """Builds t -> NoiseLevel of config.schedule; schedule.alphas win.

  params: those of the run, {'schedule': ..., ...}, which a learned schedule
  needs (else UserError) and others ignore.
  """
  c = config.schedule
  schedule = construct(schedule_constructor(config), c, 'schedule')
  if not learns_schedule(config):
    return schedule
  if params is None:
    raise UserError(
      f"config.schedule: the schedule 'learned' with gamma="
      f'{c.gamma or "scalar"!r} has values in a trained run only: '
      "objective.name=vdm trains it, gamma='fixed' needs no run"
    )
  return _with_params(schedule, params['schedule'])


def _with_params(schedule, params):
  if isinstance(schedule, dj.ShiftedSchedule):
    inner = _with_params(schedule.schedule, params)
    return dataclasses.replace(schedule, schedule=inner)
  return dataclasses.replace(schedule, params=params)


def check_signal(config):
  """Raises UserError for a prediction that does not determine x0.

  Those are eps and the score at alpha = 0, the end of a schedule with zero
  terminal SNR.
  """
  kind = config.objective.parametrization
  if kind not in ('eps', 'score') or learns_schedule(config):
    return
  # jit: one program to compile, not one for each operation. The schedule is no
  # argument of it: one of the user's own need not be a pytree.
  if jax.jit(build_schedule(config).__call__)(1.0).alpha == 0.0:
    raise UserError(
      f'config.objective.parametrization={kind!r}: the schedule has no signal '
      f'at t = 1, where {kind} says nothing about x0: take '
      'objective.parametrization=v or x0'
    )


def ends_of_schedule(config, *names):
  """Returns facts: fields of config.schedule that are set, by their names."""
  fields = {name: config.schedule[name] for name in names}
  return {n: lambda x=x: x for n, x in fields.items() if x is not None}


def num_steps(config):
  """Returns T, the number of steps; that of schedule.alphas if they are set."""
  c = config.schedule
  return c.num_steps if c.alphas is None else len(c.alphas)
