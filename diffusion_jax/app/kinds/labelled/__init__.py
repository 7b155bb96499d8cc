"""Diffusion models of examples and their labels: numbers with Gaussian noise, labels as states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import choices, diffusion, sampling
from diffusion_jax.app.kinds.choices import named
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import EVALUATE, Row
from diffusion_jax.app.kinds.sampling import Bound, Guidance, Respaced, Sampling, Steps
from diffusion_jax.core.levels import Schedule
from diffusion_jax.declared import Use, declares
from diffusion_jax.joint import label_objective
from diffusion_jax.metrics import table
from diffusion_jax.ranges import Size

# What is drawn of x and its label; what is not named is integrated out.
Drawn = Literal[
  'together', 'label_first', 'x_first', 'x_given_label', 'label_given_x', 'x', 'label'
]
BothGrids = dict[str, dj.NoiseLevel]
# The grids of each, of those that fall together; nothing else says what is drawn.
GRIDS: dict[Drawn, Callable[[BothGrids], BothGrids]] = {
  'together': lambda levels: levels,
  'label_first': lambda levels: joint.in_turn(levels, [['label'], ['x']]),
  'x_first': lambda levels: joint.in_turn(levels, [['x'], ['label']]),
  'x_given_label': lambda levels: joint.held(levels, given=['label']),
  'label_given_x': lambda levels: joint.held(levels, given=['x']),
  'x': lambda levels: joint.held(levels, noise=['label']),
  'label': lambda levels: joint.held(levels, noise=['x']),
}
# Words that draw no x, and the metrics of samples that say something of them.
_WITHOUT_X = {'label_given_x': ('accuracy',), 'label': ()}


# sampling.context has examples here, which all data have.
@declares(uses=Use.USING)
@dataclass(frozen=True, kw_only=True)
class LabelledSampling(Sampling):
  """Says how examples and labels are drawn, each given the other or both (docs/joint.md)."""

  # together, label_first or x_first: both; x_given_label, label_given_x; x or label alone
  drawn: Drawn = 'together'
  sampler: Node  # of x; the label is drawn by its own
  grid: Steps | Respaced  # the levels that are visited
  guidance: Guidance | None = None  # of x by its label, which needs no dropout of labels
  bound: Bound | None = dj.clip_denoised  # of estimates of x_0

  schedule: ClassVar[Schedule | None] = None  # the training's


class LabelFeatures(NamedTuple):
  """How many channels of the network's output the head of the label reads."""

  features: Size = 32


_TABLES = {
  **choices.TABLES,
  'objective': named(label_objective.labelled),
  'objective.clocks': {
    'held': label_objective.held_clocks,
    'common': label_objective.common_clocks,
    'own': label_objective.independent_clocks,
  },
  'sampling.grid': sampling.grids(100),
  'sampling.sampler': choices.SAMPLERS_OF_VARIABLES,
  'sampling.guidance': {n: x for n, x in choices.GUIDANCES.items() if n != 'autoguidance'},
}


def _metric_of_x(c, facts):
  able = _WITHOUT_X.get(c.sampling.drawn)
  if able is None:
    return None
  names = (n for n in c.evaluation.metrics if n in table.METRICS and n not in able)
  return next(((n, f'take {able[0]}' if able else 'take elbo') for n in names), None)


SCHEMA = diffusion.SCHEMA._replace(
  kind='a diffusion model of labelled examples',
  tables=_TABLES,
  choices=('schedule', 'network', 'noise_input', 'parametrization', 'objective', *COMMON),
  parts={
    **{n: x for n, x in diffusion.SCHEMA.parts.items() if n != 'conditioning'},
    'sampling': LabelledSampling,
    'label': LabelFeatures,
  },
  facts={
    **diffusion.SCHEMA.facts,
    'objective': ('network', 'arrays', 'size'),
  },
  metrics={**table.OF_LABELLED, **table.METRICS},
  rules=(
    Row(
      lambda c, facts: True,
      'this run is of examples with their labels, which has no edits: sampling.drawn says what is '
      'given, and --mode=sample draws the rest',
      ('edit',),
    ),
    Row(
      lambda c, facts: facts is not None and facts.x.low,
      'config.objective=labelled has no data.bounds: a draw outside of them would lose its label: '
      'leave data.bounds out',
    ),
    Row(
      lambda c, facts: c.sampling.drawn != 'x_given_label',
      'sampling.drawn={c.sampling.drawn}',
      fields=('sampling.labels',),
      advice='set sampling.drawn=x_given_label, or leave it out',
    ),
    Row(
      lambda c, facts: c.sampling.drawn != 'label_given_x',
      'sampling.drawn={c.sampling.drawn}',
      fields=('sampling.context', 'sampling.context_row'),
      advice='set sampling.drawn=label_given_x, or leave it out',
    ),
    Row(
      lambda c, facts: c.sampling.drawn in ('x', *_WITHOUT_X),
      'sampling.drawn={c.sampling.drawn}, which draws no x given a label',
      fields=('sampling.guidance',),
      advice='leave it out',
    ),
    Row(
      _metric_of_x,
      'config.evaluation.metrics={it[0]} is of drawn x, and sampling.drawn={c.sampling.drawn} '
      'draws labels alone: {it[1]}',
      EVALUATE,
    ),
  ),
)
