"""Builds the objective of a training."""

import dataclasses
import functools
import inspect
from typing import Any

import diffusion_jax as dj
from diffusion_jax.build.make import (
  check_taken,
  choose,
  construct,
  extended,
  fixed,
  make,
  renamed,
)
from diffusion_jax.build.network import (
  build_constraint,
  build_image_condition,
  build_network,
  build_noise_input,
  build_uncertainty,
  condition_dropout,
  network_fn,
  time_scale,
)
from diffusion_jax.build.schedule import (
  build_schedule,
  ends_of_schedule,
  num_steps,
)
from diffusion_jax.core import flow_losses
from diffusion_jax.core.keys import stream
from diffusion_jax.core.losses import with_start
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.training import (
  augmentation,
  classifier,
  conditions,
  consistency,
  distillation,
  flow_maps,
  level_pairs,
  objectives,
  vae,
)


def _uniform(t_min=0.0):
  return functools.partial(dj.uniform_times, t_min=t_min)


# The constructors of config.objective.times.
TIMES = {
  'steps': renamed(dj.step_times, num_steps='schedule_steps'),
  'uniform': _uniform,
  'antithetic': lambda: dj.antithetic_times,
  'log_normal': renamed(
    dj.log_normal_times, mean='log_normal_mean', std='log_normal_std'
  ),
  'logit_normal': renamed(
    dj.logit_normal_times, mean='logit_normal_mean', std='logit_normal_std'
  ),
}

# The constructors of config.objective.weight.
WEIGHTS = {
  'snr': lambda: dj.snr_weight,
  'truncated_snr': lambda: dj.truncated_snr_weight,
  'min_snr': renamed(dj.min_snr_weight, gamma='min_snr_gamma'),
  'edm': dj.edm_weight,
  'flow': lambda: dj.flow_weight,
  'min_flow': renamed(dj.min_flow_weight, maximum='max_flow_weight'),
}

# The constructors of config.objective.pairs, of levels t and r.
PAIRS = {
  'improved': renamed(
    level_pairs.improved_pairs,
    mean='log_normal_mean',
    std='log_normal_std',
    num_scales_start='first',
    num_scales_end='last',
  ),
  'easy': fixed(level_pairs.easy_pairs, k=8.0, b=1.0),
  'grid': renamed(level_pairs.grid_pairs, num_scales='pair_levels'),
}

# The constructors of config.objective.distance.
DISTANCES = {
  'squared': lambda: flow_losses.squared_error,
  'pseudo_huber': renamed(flow_losses.pseudo_huber, offset='huber_offset'),
}

# Samplers without memory, a step of which a teacher takes.
SOLVERS = {'ddim': dj.ddim, 'heun': dj.heun}


def networked(constructor, *options):
  """Returns the constructor with the fields of its `Network` as parameters.

  options: those of the Network's keywords that it can use.
  """
  own = inspect.signature(objectives.Network).parameters
  own = [own[n] for n in ('apply', 'noise_input', *options)]
  own[0] = own[0].replace(name='network_fn')
  others = inspect.signature(constructor).parameters
  others = [p for n, p in others.items() if n != 'network']

  def build(*, network_fn, noise_input, **values):
    fields = {n: values.pop(n) for n in options if n in values}
    network = objectives.Network(network_fn, noise_input, **fields)
    return constructor(network=network, **values)

  build.__signature__ = inspect.Signature(
    [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *others)]
  )
  return build


PREDICTS = 'parametrization', 'sigma_data', 'condition'


def _mean_flow(
  *,
  times,
  equal=0.75,
  start=0.0,
  end=0.0,
  omega=1.0,
  kappa=0.0,
  max_guidance=None,
  **fields,
):
  pairs = flow_maps.two_times(times, p_equal=equal, p_t1=start, p_s0=end)
  guidance = None
  if (omega, kappa) != (1.0, 0.0):
    guidance = flow_maps.fixed_guidance(omega, kappa)
  if max_guidance is not None:
    guidance = flow_maps.power_law_guidance(1.0, max_guidance)
  return flow_maps.mean_flow(two_times=pairs, guidance=guidance, **fields)


def _consistency_distillation(*, sigma_data=0.5, sigma_min=0.002, **fields):
  boundary = consistency.Boundary(sigma_data, sigma_min)
  return consistency.consistency_distillation(boundary=boundary, **fields)


def _reflow(
  *,
  schedule,
  times,
  teacher: Any = None,
  start=0.0,
  teacher_steps=16,
  **fields,
):
  levels = dj.level_grid(schedule, teacher_steps)

  def sample(denoise, x1):
    key = stream(0, 'teacher')  # UniPC draws nothing
    return dj.sample(key, denoise, dj.unipc(), levels, x1)

  if teacher is not None:
    teacher = distillation.sampling_teacher(teacher, sample)
  return distillation.reflow(
    schedule=schedule, times=with_start(times, start), teacher=teacher, **fields
  )


LOSS_AWARE = {'steps': False, 'loss_aware': True}  # times of a bound

_hybrid = renamed(
  networked(objectives.hybrid, *PREDICTS, 'learned_variance'),
  num_steps='schedule_steps',
)

# The constructors of config.objective.name.
OBJECTIVES = {
  'denoising': networked(
    objectives.denoising,
    *PREDICTS,
    'learned_variance',
    'augment',
    'self_conditioning',
    'estimate_probability',
  ),
  'hybrid': _hybrid,
  'vlb': fixed(_hybrid, weight=None, vlb_weight=1.0),
  # 0: continuous
  'vdm': functools.partial(networked(objectives.vdm, *PREDICTS), num_steps=0),
  'mean_flow': networked(
    renamed(
      extended(_mean_flow, flow_maps.mean_flow, 'two_times', 'guidance'),
      adaptive_power='power',
      adaptive_eps='offset',
    ),
    'time_scale',
    'condition',
    'augment',
  ),
  'shortcut': networked(
    renamed(flow_maps.shortcut, num_steps='map_steps'),
    'time_scale',
    'condition',
  ),
  'consistency_training': networked(
    consistency.consistency_training, 'condition'
  ),
  'consistency_distillation': networked(
    extended(
      _consistency_distillation,
      consistency.consistency_distillation,
      'boundary',
    ),
    'condition',
  ),
  'continuous_consistency': networked(
    renamed(consistency.continuous_consistency, warmup_steps='tangent_warmup'),
    'condition',
  ),
  'progressive_distillation': networked(
    renamed(distillation.progressive_distillation, num_steps='map_steps'),
    *PREDICTS,
  ),
  'reflow': networked(extended(_reflow, distillation.reflow), *PREDICTS),
  'classifier': networked(
    classifier.classifier, 'parametrization', 'sigma_data'
  ),
  'vae': vae.vae,
  'hvae': vae.hvae,
}


def build_times(config):
  """Returns (key, batch_size, schedule) -> levels."""
  facts = {'schedule_steps': lambda: num_steps(config)}
  return make(TIMES, config.objective, 'objective.times', facts)


def build_weight(config):
  """Returns NoiseLevel -> weight of the error in x0."""
  return make(WEIGHTS, config.objective, 'objective.weight')


def build_pairs(config):
  """Returns (key, batch_size, schedule, step) -> level_t, level_r, weight."""
  facts = {
    'times': lambda: build_times(config),
    'total_steps': lambda: config.training.num_steps,
    **ends_of_schedule(config, 'sigma_min', 'sigma_max', 'rho'),
  }
  return make(PAIRS, config.objective, 'objective.pairs', facts)


def build_distance(config):
  """Returns (a, b) -> [B]; None for objective.distance=None, the default."""
  if config.objective.distance is None:
    return None
  return make(DISTANCES, config.objective, 'objective.distance')


def build_solver(config):
  """Returns the `Sampler` by which a teacher takes a step."""
  return choose(SOLVERS, 'objective', 'solver', config.objective.solver)()


def build_augment(config):
  """Returns (key, x0) -> (x0, labels), or None for objective.augment=0."""
  probability = config.objective.augment
  if not probability:
    return None
  return functools.partial(augmentation.augment, probability=probability)


def _objective_facts(config, network, test):
  c = config.objective
  return {
    'network_fn': lambda: network_fn(config, network),
    'schedule': lambda: build_schedule(config),
    'make_schedule': lambda: lambda params: build_schedule(config, params),
    'schedule_steps': lambda: num_steps(config),
    'num_steps': lambda: c.num_steps or None,  # of the model of vdm
    'num_levels': lambda: config.data.num_levels,
    'parametrization': lambda: choose(
      KINDS, 'objective', 'parametrization', c.parametrization
    ),
    'noise_input': lambda: build_noise_input(config),
    'sigma_data': lambda: c.sigma_data,
    'condition': lambda: conditions.make_condition(
      config.conditioning.labels,
      condition_dropout(config),
      build_image_condition(config),
      config.conditioning.text,
    ),
    'times': lambda: build_times(config),
    'weight': lambda: build_weight(config),
    'loss_aware': lambda: choose(LOSS_AWARE, 'objective', 'times', c.times),
    'learned_variance': lambda: config.network.learned_variance,
    'augment': lambda: build_augment(config),
    'self_conditioning': lambda: config.conditioning.self_conditioning,
    'estimate_probability': lambda: 1.0 if test else 0.5,
    'uncertainty': lambda: build_uncertainty(config),
    'time_scale': lambda: time_scale(config),
    'pairs': lambda: build_pairs(config),
    'distance': lambda: build_distance(config),
    'solver': lambda: build_solver(config),
    **ends_of_schedule(config, 'sigma_min'),
  }


# Fields that change what the objective must compute, by its parameter.
NEEDED = {
  'objective.augment': 'augment',
  'conditioning.labels': 'condition',
  'conditioning.self_conditioning': 'self_conditioning',
  'objective.uncertainty': 'uncertainty',
}


def build_objective(config, test=False, more_facts=lambda network: {}):
  """Returns the `training.objectives.Objective` of config.objective.

  test: the conditional loss, without dropout in the network or of conditions,
  without augmentation, and with self-conditioning's first estimate of every
  image. more_facts: network -> values of further parameters, by name.
  """
  check_taken(config, NEEDED, OBJECTIVES, 'objective.name')
  c = config.objective
  constructor = choose(OBJECTIVES, 'objective', 'name', c.name)
  network = build_network(config)
  if test:
    if hasattr(network, 'dropout'):
      network = network.clone(dropout=0.0)
    config = config.copy_and_resolve_references()
    config.objective.augment = config.conditioning.dropout = 0.0
  facts = _objective_facts(config, network, test) | more_facts(network)
  found = construct(constructor, config.objective, 'objective', facts)
  constrain = build_constraint(config, network)
  if constrain is None:
    return found
  return dataclasses.replace(
    found, constrain=lambda params: constrain(found.constrain(params))
  )
