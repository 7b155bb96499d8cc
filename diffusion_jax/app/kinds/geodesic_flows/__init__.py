"""Flow matching of angles, directions and rotations: its sections, choices and rules."""

from dataclasses import dataclass
from typing import ClassVar

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices, diffusion, sampling
from diffusion_jax.app.kinds.choices import named
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import EDIT, Row
from diffusion_jax.app.kinds.sampling import Sampling, Steps
from diffusion_jax.core.levels import Schedule
from diffusion_jax.data import npz, wrapped
from diffusion_jax.joint.objectives import geodesic_flow
from diffusion_jax.metrics import table


@dataclass(frozen=True, kw_only=True)
class GeodesicSampling(Sampling):
  """Says how angles, directions and rotations are drawn (docs/arrays.md)."""

  grid: Steps  # the levels that are visited

  schedule: ClassVar[Schedule | None] = None  # the training's


_TABLES = {
  **choices.TABLES,
  'objective': named(geodesic_flow),
  'sampling.grid': sampling.uniform_grids(100),
  'schedule': {'flow': dj.RectifiedFlowSchedule},
  'noise_input': {'time': dj.time_input},
  'network': {name: choices.DENOISERS[name] for name in ('mlp', 'dit')},
  'data': named(npz.npz, wrapped.wrapped_normals),
}

# What would change or show an example as if it were numbers.
_OF_NUMBERS = (
  *(f'conditioning.{x}' for x in ('image', 'self_conditioning', 'augment')),
  'training.random_flip',
)

SCHEMA = diffusion.SCHEMA._replace(
  kind='a flow of directions',
  tables=_TABLES,
  choices=('schedule', 'network', 'noise_input', 'objective', *COMMON),
  parts={**diffusion.SCHEMA.parts, 'sampling': GeodesicSampling},
  facts={**diffusion.SCHEMA.facts, 'objective': ('network',)},
  metrics=table.OF_DIRECTIONS,
  rules=(
    Row(
      lambda c, facts: next((path for path in _OF_NUMBERS if c.at(path)), ''),
      'config.{it} is of numbers, and your data are {data}: leave it out',
    ),
    Row(
      lambda c, facts: True,
      'this run is of angles, directions or rotations, which have no edits: take --mode=sample',
      EDIT,
    ),
  ),
)
