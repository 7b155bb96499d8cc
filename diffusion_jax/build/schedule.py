"""config -> schedule: how the noise grows."""

import dataclasses

import diffusion_jax as dj
from diffusion_jax.networks.gamma import LinearGamma, MonotoneGamma
from diffusion_jax.errors import UserError
from diffusion_jax.build.make import choose, from_config, given

BETAS = {
  'linear': (dj.linear_betas, ('start', 'end')),
  'rescaled_linear': (dj.rescaled_linear_betas, ()),
  'quadratic': (dj.quadratic_betas, ('start', 'end')),
  'scaled_linear': (dj.scaled_linear_betas, ('start', 'end')),
  'cosine': (dj.cosine_betas, ()),
  'sigmoid': (dj.sigmoid_betas, ('start', 'end')),
  'constant': (dj.constant_betas, ('value',)),
  'warmup': (dj.warmup_betas, ('fraction', 'start', 'end')),
  'reciprocal': (dj.reciprocal_betas, ()),
}


def _discrete(name):
  function, fields = BETAS[name]

  def build(c):
    betas = function(c.num_steps, **given(c, *fields))
    if c.zero_terminal_snr:
      betas = dj.zero_terminal_snr(betas)
    return dj.DiscreteSchedule.from_betas(betas)

  return build


def _named(c, prefix, *names):
  fields = given(c, *(prefix + name for name in names))
  return {name.removeprefix(prefix): value for name, value in fields.items()}


SCHEDULES = {
  **{name: _discrete(name) for name in BETAS},
  'continuous_cosine': lambda c: dj.CosineSchedule(
    **given(c, 'logsnr_min', 'logsnr_max')
  ),
  'linear_vp': lambda c: dj.LinearVPSchedule(
    **given(c, 'beta_min', 'beta_max')
  ),
  'sub_vp': lambda c: dj.SubVPSchedule(**given(c, 'beta_min', 'beta_max')),
  'continuous_sigmoid': lambda c: dj.SigmoidSchedule(
    **_named(c, 'sigmoid_', 'start', 'end', 'tau')
  ),
  'karras': lambda c: dj.KarrasSchedule(
    **given(c, 'sigma_min', 'sigma_max', 'rho')
  ),
  'flow': lambda c: dj.RectifiedFlowSchedule(**given(c, 'shift')),
  'geometric_ve': lambda c: dj.GeometricVESchedule(
    **given(c, 'sigma_min', 'sigma_max')
  ),
  # its parameters, if it has any, are filled in by build_schedule
  'learned': lambda c: dj.LearnedSchedule({}, _gamma_fn(build_gamma(c))),
}

NO_SHIFT = ('geometric_ve', 'karras', 'sub_vp')

GAMMAS = {
  'fixed': lambda *ends: LinearGamma(*ends, learned=False),
  'scalar': LinearGamma,
  'network': MonotoneGamma,
}


def build_gamma(c):
  """config.schedule -> the Flax module of a learned gamma(t)."""
  if not c.gamma_min < c.gamma_max:
    raise ValueError(
      f'gamma_min={c.gamma_min} is not below gamma_max={c.gamma_max}'
    )
  build = choose(GAMMAS, 'schedule', 'gamma', c.gamma)
  return build(c.gamma_min, c.gamma_max)


def _gamma_fn(gamma):
  return lambda params, t: gamma.apply({'params': params}, t)


def learns_schedule(config):
  """Whether the parameters of a run have a branch 'schedule'."""
  c = config.schedule
  return c.name == 'learned' and c.gamma != 'fixed' and c.alphas is None


def build_schedule(config, params=None):
  """config.schedule -> t -> NoiseLevel; an explicit list of alphas wins.

  params are those of the run, {'schedule': ..., ...}: a learned schedule is
  made of them, and refused without; no other reads them.
  """
  c = config.schedule
  build = choose(SCHEDULES, 'schedule', 'name', c.name)
  with from_config('schedule'):
    if c.alphas is not None:
      return _shifted(c, dj.DiscreteSchedule.from_alphas(c.alphas))
    schedule = build(c)
    if not learns_schedule(config):
      return _shifted(c, schedule)
    if params is None:
      raise ValueError(
        f"the schedule 'learned' with gamma={c.gamma!r} is known to a trained "
        "run only: objective.name=vdm trains it, gamma='fixed' needs no run"
      )
    schedule = dataclasses.replace(schedule, params=params['schedule'])
    return _shifted(c, schedule)


def _shifted(c, schedule):
  if c.shift is None:
    return schedule
  if c.alphas is None and c.name == 'flow':  # its own
    return schedule
  if c.alphas is None and c.name in NO_SHIFT:
    raise ValueError(
      f'shift is for variance-preserving schedules and flow, {c.name!r} is '
      'neither'
    )
  return dj.ShiftedSchedule(schedule, c.shift)


def check_signal(config):
  """UserError for a network that is asked for x0 where it cannot know it.

  That is eps or the score at alpha = 0, the start of a schedule with zero
  terminal SNR.
  """
  kind = config.objective.parametrization
  if kind not in ('eps', 'score') or learns_schedule(config):
    return
  if build_schedule(config)(1.0).alpha == 0.0:
    raise UserError(
      f'config.objective.parametrization={kind!r}: the schedule has no signal '
      f'at t = 1, where {kind} says nothing about x0: take '
      'objective.parametrization=v or x0'
    )


def num_steps(config):
  """T: the steps of the schedule, as many as an explicit list has."""
  c = config.schedule
  return c.num_steps if c.alphas is None else len(c.alphas)
