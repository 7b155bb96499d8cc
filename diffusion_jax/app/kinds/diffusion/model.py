"""Diffusion models of images: networks that denoise."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds import other_runs
from diffusion_jax.app.kinds.model import IDENTITY, NOTHING, Guides, Latents, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork, refusals_of
from diffusion_jax.app.kinds.other_runs import TeacherDenoiser
from diffusion_jax.app.kinds.sampling import (
  DenoiserSampling,
  Plan,
  Respaced,
  Steps,
  Wrap,
  draws_noise,
  ordered,
)
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.levels import check_order
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from diffusion_jax.testing import floors
from diffusion_jax.training.objectives import Mean, Objective, at_the_end, of_each


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a diffusion model of images."""
  noisy = ConfiguredNetwork.of(config, facts)
  plan = functools.partial(plan_of, noisy, config.sampling.make())
  losses = functools.partial(losses_of, noisy)
  has_floor = not (no_floor(config.objective, facts) or noisy.process.is_learned)
  return dataclasses.replace(
    of_network(noisy, run, plan),
    measured=dataclasses.replace(noisy, losses=losses),
    losses=losses if has_floor else None,
  )


def no_floor(objective: Node, facts: Facts) -> str:
  """Returns why a loss says nothing of exact denoisers; '' if it does."""
  name = f'objective={objective.name}'
  if not objective.declared.denoises:
    if ':' in objective.name:
      return f'{name} is your own: diffusion_jax.testing.floors makes networks to call it with'
    return f'{name} does not only denoise the data'
  if objective.get('levels') is not None:
    return 'exact denoisers here have one level for an example, and objective.levels has more'
  if facts.lengths:
    return 'exact denoisers here are of examples of one length, and these have lengths'
  if objective.get('coupling') is not None:
    return f'objective.coupling={objective.coupling.name} pairs data and noise'
  return ''


def losses_of(
  noisy: ConfiguredNetwork, exact: bool = False, training: bool = False
) -> Callable[..., dict[str, Mean]]:
  """Returns (params, key, batch) -> the metrics of the objective, without dropout.

  exact: of `floors.exact`, whose `Fit` is params['network'] then; each is of
  the rows of the batch, [B], at the draws of the whole batch. training: as in the
  training, where conditions are dropped and examples augmented.
  """
  if why := no_floor(noisy.config.objective, noisy.facts):
    raise ValueError(f'{why}, so that its loss has no floor: leave loss out')
  network = noisy.trained(test=not training)
  network = floors.exact(network) if exact else network
  objective = objective_of(noisy, lambda: None, test=True, network=network)
  start = {}
  if noisy.uncertainty is not None:  # The metric `error` is without it.
    shapes = jax.eval_shape(noisy.uncertainty.init, abstract_key())
    start['uncertainty'] = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def losses(params, key, batch):
    params = {**start, **params}
    context = at_the_end(objective, params)
    if exact:
      return of_each(objective, params, context, key, batch)
    _, (metrics, _) = objective(params, context, key, batch)
    return metrics

  return losses


def of_network(
  noisy: ConfiguredNetwork,
  run: RunFolder,
  plan: Callable[..., Plan] | None = None,
  latents: Latents = IDENTITY,
) -> Model:
  """Makes a model of a network of noisy images, whose images a plan draws."""
  teacher, frozen = lambda: None, NOTHING
  if needs_teacher(noisy.config):
    teacher, frozen = other_runs.teacher_of(noisy, run)
  return Model(
    config=noisy.config,
    run=run,
    workdir=run,
    facts=noisy.facts,
    state_shape=noisy.state_shape,
    network=lambda: noisy.network,
    init=noisy.init,
    objective=functools.partial(objective_of, noisy, teacher),
    refusals=refusals_of(noisy),
    measured=noisy,
    root=lambda: stream(noisy.config.sampling.seed, 'sampling'),
    conditioning=noisy.conditioning,
    noisy=noisy,
    plan=plan,
    teacher=frozen,
    latents=latents,
  )


# -- training -----------------------------------------------------------------


def needs_teacher(config: Node) -> bool:
  """Returns whether training.teacher is set, or the objective cannot be without one."""
  parameter = parameters(config.objective.constructor).get('teacher')
  is_required = parameter is not None and parameter.default is parameter.empty
  return is_required or bool(config.training.teacher)


def objective_of(
  noisy: ConfiguredNetwork,
  teacher: Callable[[], TeacherDenoiser | None],
  test: bool = False,
  network: dj.Network | None = None,
) -> Objective:
  """Makes the objective; with `test`, of a held-out loss, without dropout and augmentation.

  teacher: see `other_runs.teacher_of`; network: the one that is evaluated, None for
  the trained one.
  """
  facts = noisy.objective_facts(network or noisy.trained(test), teacher())
  objective = noisy.config.objective
  return constrained(noisy, (objective.as_held_out() if test else objective).make(facts))


def constrained(noisy: ConfiguredNetwork, objective: Objective) -> Objective:
  """Returns the objective with the constraints of the network's parameters."""
  parts = {'network': noisy.network, 'uncertainty': noisy.uncertainty}
  constraints = {n: x.constrain for n, x in parts.items() if hasattr(x, 'constrain')}
  if not constraints:
    return objective

  def constrain(params):
    params = objective.constrain(params)
    return params | {n: f(params[n]) for n, f in constraints.items()}

  return dataclasses.replace(objective, constrain=constrain)


# -- sampling -----------------------------------------------------------------


def denoiser_of(
  noisy: ConfiguredNetwork,
  c: DenoiserSampling,
  params: Params,
  cond: dict,
  guides: Guides,
  after_guidance: Wrap | None = None,
  clip: bool = True,
  scale: jax.Array | float | None = None,
) -> Callable[..., Any]:
  """Returns the denoiser, guided and clipped, at the levels of the training.

  For a sampler that takes pairs it returns the pair, each clipped.

  guides: the runs that guide it, besides its own condition; see `Plan` for the
  other arguments. If `clip` is False, no classifier guides it.
  """
  denoise = noisy.denoiser(params, cond)
  if c.sampler.declared.takes_pairs:
    pair = _pair(noisy, params, cond, guides, denoise)
    return _bounded_pair(pair, c.bound if noisy.clips and clip else None)
  if c.guidance is not None:
    scale = c.guidance.scale if scale is None else scale
    if is_guided(scale):
      denoise = c.guidance.guide(_pair(noisy, params, cond, guides, denoise), scale)
  functions = [after_guidance]
  if clip:
    functions.append(c.bound if noisy.clips else None)
    if c.classifier is not None and 'classifier' in guides:
      classifier, scale = guides['classifier'], c.classifier.scale
      guided = other_runs.by_classifier(noisy, classifier, scale, cond)
      functions.insert(2 if c.classifier.after_clip else 0, guided)
  for function in filter(None, functions):
    denoise = function(denoise)
  return denoise


def is_guided(scale: jax.Array | float) -> bool:
  """Returns whether a scale of guidance may be other than 1."""
  return isinstance(scale, Tracer) or bool(scale != 1.0)


def _bounded_pair(pair, bound):
  # Both denoisers of a pair estimate x_0, so both are bounded.
  if bound is None:
    return pair

  def one(i):
    return bound(lambda xt, level: pair(xt, level)[i])

  return dj.paired(one(0), one(1))


def _pair(noisy, params, cond, guides, denoise):
  if 'guidance' not in guides:
    inputs = noisy.inputs.among(cond)
    return dj.make_paired_denoiser(noisy.given(), params['network'], inputs)
  guide = guides['guidance']
  worse = guide.noisy.denoiser(guide.params, cond)
  worse = other_runs.at_levels_of(guide, noisy, worse)
  return dj.paired(denoise, worse, noisy.process.parametrization)


def plan_of(
  noisy: ConfiguredNetwork,
  c: DenoiserSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling; guides: {} or None without runs.

  params: needed by its step functions, and by a learned schedule.
  """
  trained = noisy.schedule(params)
  visited = c.schedule or trained
  levels = levels_of(c.grid, visited)
  num_steps = len(levels.t) - 1  # of each element
  with from_config('sampling.order'):
    levels = ordered(levels, c.order, noisy.state_shape[0], noisy.shared)
  sampler = c.sampler.make({'schedule': visited})
  sampler = corrected(c, sampler, visited, num_steps)

  def denoiser(cond, **options):
    denoise = denoiser_of(noisy, c, params or {}, cond, guides or {}, **options)
    if c.schedule is not None:
      denoise = dj.at_training_levels(denoise, trained)
    if noisy.holds_known and 'known' in cond and not c.sampler.declared.takes_pairs:
      return dj.given_known(denoise, cond['known'])
    return denoise

  def of_estimate(cond, **options):
    # The estimate is always clipped in training.
    clipped = functools.partial(jnp.clip, min=-1.0, max=1.0)
    return lambda x0: denoiser(cond | {'x0': clipped(x0)}, **options)

  prior = noisy.prior_sample
  stride = (c.stride or -(-noisy.state_shape[0] // 2)) if noisy.holds_known else 0
  if not noisy.conditioning.self_conditioning:
    denoises = not c.sampler.declared.takes_pairs
    return Plan(visited, levels, sampler, denoiser, prior, denoises=denoises, stride=stride)
  sampler = dj.self_conditioned(sampler)
  return Plan(visited, levels, sampler, of_estimate, prior, stride=stride)


def levels_of(
  grid: Steps | Respaced, schedule: dj.Schedule, end_clean: bool = True
) -> dj.NoiseLevel:
  """Returns the levels to visit, [N + 1], the noisiest first; UserError for others of a grid."""
  with from_config('sampling.grid'):
    if isinstance(grid, Steps | Respaced):
      return grid.levels(schedule, end_clean)
    # Of a user's own the values are known, unless the schedule is learned.
    with jax.ensure_compile_time_eval():
      levels = jax.jit(lambda: grid.levels(schedule, end_clean))()  # one program, not many
      check_levels(levels)
    return levels


def check_levels(levels: object) -> None:
  """Raises ValueError unless these are levels of one or more steps, the noisiest first."""
  if not isinstance(levels, dj.NoiseLevel):
    raise ValueError(
      f'levels(schedule, end_clean) must return a dj.NoiseLevel, not {kind_of(levels)}'
    )
  shapes = {jnp.shape(x) for x in levels}
  if len(shapes) > 1 or len(min(shapes)) != 1 or min(shapes)[0] < 2:
    text = ', '.join(map(str, [*map(list, map(jnp.shape, levels))]))
    raise ValueError(
      f'levels(schedule, end_clean) must have [N + 1] of t, alpha and sigma, not {text}'
    )
  check_order(levels.take(slice(1, None)), levels.take(slice(None, -1)))


def corrected(
  c: DenoiserSampling, sampler: dj.Sampler, schedule: dj.Schedule, num_steps: int
) -> dj.Sampler:
  """Returns the sampler with ancestral noise, churn and corrector."""
  if c.churn is c.ancestral_noise is c.corrector is None:
    return sampler
  if jax.tree.leaves(sampler.init(jnp.zeros((1, 1)))):
    raise UserError(
      f'config.sampling.sampler={c.sampler.name} uses earlier steps, which '
      'churn, ancestral_noise and corrector change: set them to None or take '
      'another sampler'
    )
  with from_config('sampling'):
    if c.ancestral_noise is not None:
      if draws_noise(c.sampler):
        raise ValueError(
          f'ancestral_noise adds noise to steps of the ODE, and sampler='
          f'{c.sampler.name} draws noise already: take a solver of the ODE, as '
          'ddim with eta=0, or no ancestral_noise'
        )
      sampler = c.ancestral_noise.around(sampler, schedule)
    if c.churn is not None:
      sampler = c.churn.around(sampler, schedule, num_steps)
    if c.corrector is not None:
      sampler = c.corrector.around(sampler)
  return sampler
