"""Flow maps: their sections, choices and rules."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices, diffusion, network, sampling
from diffusion_jax.app.kinds.choices import TIMES, deferred, named
from diffusion_jax.app.kinds.couplings import NOISY_STEP
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.app.kinds.sampling import Respaced, Sampling, Steps
from diffusion_jax.core.levels import Schedule
from diffusion_jax.few_steps import (
  average_velocity as flow_maps,
  consistency,
  level_pairs,
  losses as flow_losses,
)
from diffusion_jax.metrics import table
from diffusion_jax.ranges import Finite


@dataclass(frozen=True, kw_only=True)
class MapSampling(Sampling):
  """Says how a flow map draws images, by a call of its network for each level."""

  grid: Steps | Respaced  # the levels that are visited
  # each step goes to the end and adds noise again, which is the only step of a
  # consistency function
  stochastic: bool = False
  guidance_scale: Finite = 1.0  # scale of the guidance that was trained in; 1: no guidance

  schedule: ClassVar[Schedule | None] = None  # the training's


_OBJECTIVES = named(
  flow_maps.mean_flow,
  flow_maps.lagrangian,
  flow_maps.progressive,
  flow_maps.shortcut,
  consistency.consistency_training,
  consistency.consistency_distillation,
  consistency.continuous_consistency,
)

_PAIRS = {
  'improved': level_pairs.improved_pairs,
  'easy': functools.partial(level_pairs.easy_pairs, k=8.0, b=1.0),
  'grid': level_pairs.grid_pairs,
}

_DISTANCES = {
  'pseudo_huber': flow_losses.pseudo_huber,
  'squared': deferred(flow_losses.squared_error, 'a', 'b'),
}

_TABLES = {
  **choices.TABLES,
  'objective': _OBJECTIVES,
  'sampling.grid': sampling.grids(1),
  'objective.two_times': {'independent': flow_maps.independent_times},
  'two_times.times': TIMES,
  'two_times.second': TIMES,
  'objective.guidance': {
    'fixed': flow_maps.fixed_guidance,
    'power_law': flow_maps.power_law_guidance,
  },
  'objective.pairs': _PAIRS,
  'pairs.times': TIMES,
  'objective.distance': _DISTANCES,
}


def _has_scales(c):
  return 'high' in (c.objective.get('guidance') or ())


def _untrained_scale(c, facts):
  highest = c.objective.guidance.high if _has_scales(c) else 1.0
  return not 1.0 <= c.sampling.guidance_scale <= highest and highest


def _goes_one_way(c, facts):
  is_one_way = c.objective.declared.map_kind != 'average_velocity'
  several = c.sampling.grid.get('number') != 1
  return is_one_way and not c.sampling.stochastic and several


def _sees_no_time(c, facts):
  reads_steps = c.objective.declared.map_kind == 'average_velocity'
  return reads_steps and c.noise_input.constructor is not dj.time_input


def _derivative_is_large(c, facts):
  section = c.noise_input
  if not c.objective.declared.forward_mode or section.name == 'edm':
    return False
  return section.constructor is not dj.time_input or section.scale > 10.0


_RULES = (
  Row(
    lambda c, facts: c.objective.get('guidance') and not c.conditioning.dropout,
    'config.objective.guidance also trains the network without a condition: set '
    'conditioning.dropout, 0.1 for instance',
  ),
  Row(
    _untrained_scale,
    'config.sampling.guidance_scale={c.sampling.guidance_scale} is outside the scales of the '
    'training, 1 to {it}; objective.guidance=power_law trains several',
  ),
  Row(
    _sees_no_time,
    'config.noise_input={c.noise_input.name}: the network of objective={c.objective.name} gets t '
    'and t - s: set it to time',
  ),
  Row(
    _derivative_is_large,
    'config.noise_input: the loss of objective={c.objective.name} contains the derivative in time, '
    'which an input that goes to 1000 makes 1000 times too large: set noise_input=time and '
    'noise_input.scale=1',
  ),
  Row(
    lambda c, facts: c.objective.declared.forward_mode and c.network.get('attention') == 'cudnn',
    'config.network.attention=cudnn has no forward-mode derivative, which '
    'objective={c.objective.name} needs: set it to auto or xla',
  ),
  Row(
    _goes_one_way,
    'config.sampling.grid: a consistency function only reaches the clean end: set '
    'sampling.num_steps=1, or sampling.stochastic=True',
  ),
)

# Without a parametrization, sigma_data is a field.
_FACTS = {*network.ObjectiveFacts.__annotations__} - {'sigma_data'}
SCHEMA = diffusion.SCHEMA._replace(
  kind='a flow map',
  tables=_TABLES,
  choices=('schedule', 'network', 'noise_input', 'objective', *COMMON),
  parts={**diffusion.SCHEMA.parts, 'sampling': MapSampling},
  facts={**diffusion.SCHEMA.facts, 'objective': _FACTS},
  metrics={**table.OF_OTHERS, **table.METRICS},
  rules=(*_RULES, NOISY_STEP),
  own='map_kind',
)
