"""Bridges: their sections, choices and rules."""

from dataclasses import dataclass
from typing import ClassVar

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices, diffusion, sampling
from diffusion_jax.app.kinds.choices import named
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import EDIT, EVALUATE, Row
from diffusion_jax.app.kinds.sampling import Sampling, Steps
from diffusion_jax.bridges import objective as bridges
from diffusion_jax.core.levels import Schedule
from diffusion_jax.metrics import table
from diffusion_jax.training import couplings


@dataclass(frozen=True, kw_only=True)
class BridgeSampling(Sampling):
  """Says how a bridge takes points of the source to the data (docs/bridges.md)."""

  grid: Steps  # the levels that are visited
  stochastic: bool = False  # follows the diffusion instead of the ODE
  reverse: bool = False  # goes from the data to the source

  schedule: ClassVar[Schedule | None] = None  # the training's

  @property
  def ends(self) -> tuple[str, str]:
    """The entries of the data where samples start and end."""
    return ('x', 'context') if self.reverse else ('context', 'x')


_TABLES = {
  **choices.TABLES,
  'objective': named(bridges.bridge),
  'sampling.grid': sampling.uniform_grids(100),
  'objective.coupling': {
    'exact': couplings.exact_coupling,
    'schrodinger': bridges.schrodinger_coupling,
  },
  'schedule': {'flow': dj.RectifiedFlowSchedule},
  'noise_input': {'time': dj.time_input},
}

# What would change one of the two examples that a bridge joins.
_OF_ONE_END = (
  *(f'conditioning.{x}' for x in ('image', 'context', 'self_conditioning', 'augment')),
  'training.random_flip',
)

_RULES = (
  Row(
    lambda c, facts: next((path for path in _OF_ONE_END if c.at(path)), ''),
    'config.{it} changes one of the two examples that a bridge joins: leave it out',
  ),
  Row(
    lambda c, facts: facts.x.low,
    'config.data.bounds: the paths of a bridge leave the box: leave bounds out',
  ),
  Row(
    lambda c, facts: c.at('data.paired') and c.objective.coupling,
    'config.objective.coupling={c.objective.coupling.name} pairs the examples of a '
    'batch, and data.paired=True has pairs: leave one of them out',
  ),
  Row(
    lambda c, facts: c.at('objective.coupling.name') == 'schrodinger' and not c.objective.diffusion,
    'config.objective.coupling=schrodinger needs objective.diffusion above 0: take exact',
  ),
  Row(
    lambda c, facts: c.sampling.stochastic and not c.objective.diffusion,
    'config.sampling.stochastic=True: a bridge of objective.diffusion=0 has the ODE only',
  ),
  Row(
    lambda c, facts: c.sampling.reverse and c.evaluation.reference in ('train', 'test'),
    'config.sampling.reverse=True draws the source, and evaluation.reference='
    '{c.evaluation.reference} is x: set it to an npz file with points of the source',
    EVALUATE,
  ),
  Row(
    lambda c, facts: True,
    'this run is a bridge, which cannot edit: --mode=sample takes your arrays from one set to the '
    'other (sampling.context)',
    EDIT,
  ),
)

SCHEMA = diffusion.SCHEMA._replace(
  kind='a bridge',
  tables=_TABLES,
  choices=('schedule', 'network', 'noise_input', 'objective', *COMMON),
  parts={**diffusion.SCHEMA.parts, 'sampling': BridgeSampling},
  metrics={**table.OF_OTHERS, **table.METRICS},
  rules=_RULES,
)
