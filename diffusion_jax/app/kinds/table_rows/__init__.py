"""Diffusion models of rows of a table: numbers with Gaussian noise, categories as states."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import choices, diffusion, sampling
from diffusion_jax.app.kinds.choices import named
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.app.kinds.sampling import Respaced, Sampling, Steps
from diffusion_jax.core.levels import Schedule
from diffusion_jax.data.mixed import table as table_of_cells
from diffusion_jax.joint import cell_clocks
from diffusion_jax.metrics import table
from diffusion_jax.ranges import Size


@dataclass(frozen=True, kw_only=True)
class RowSampling(Sampling):
  """Says how rows of a table are drawn (docs/tables.md)."""

  sampler: Node  # of the numbers; categories are drawn by their own
  grid: Steps | Respaced  # the levels that are visited

  schedule: ClassVar[Schedule | None] = None  # the training's


class CellFeatures(NamedTuple):
  """What a network of rows reads: each cell is a token of `features` numbers."""

  features: Size = 32


_TABLES = {
  **choices.TABLES,
  'objective': named(cell_clocks.cells),
  'objective.levels': {'given': cell_clocks.given_cells},
  'sampling.grid': sampling.grids(100),
  'sampling.sampler': choices.SAMPLERS_OF_VARIABLES,
  'network': {name: choices.DENOISERS[name] for name in ('dit', 'mlp')},
  'noise_input': {'time': dj.time_input},
  'data': {'table': table_of_cells},
}

SCHEMA = diffusion.SCHEMA._replace(
  kind='a diffusion model of rows',
  tables=_TABLES,
  choices=('schedule', 'network', 'noise_input', 'parametrization', 'objective', *COMMON),
  parts={**diffusion.SCHEMA.parts, 'sampling': RowSampling, 'cells': CellFeatures},
  facts={
    **diffusion.SCHEMA.facts,
    'objective': ('network', 'arrays', 'sizes'),
  },
  metrics={**table.OF_ROWS, **table.OF_OTHERS},
  rules=(
    Row(
      lambda c, facts: True,
      'this run is of rows of a table, which has no edits: sampling.context gives some of their '
      'cells, and --mode=sample draws the others',
      ('edit',),
    ),
  ),
)
