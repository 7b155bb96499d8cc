"""Diffusion models of discrete states: their sections and choices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, NotRequired, TypedDict

import jax

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit import methods, pictures
from diffusion_jax.app.kinds import choices, diffusion, sampling
from diffusion_jax.app.kinds.choices import DATA, SCHEDULES, named
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import GUIDED_ALONE
from diffusion_jax.app.kinds.sampling import Respaced, Sampling, Starts, Steps
from diffusion_jax.core.levels import Schedule
from diffusion_jax.data.text_files import text_files
from diffusion_jax.discrete import objectives as discrete_states
from diffusion_jax.discrete.transitions import (
  StateProcess,
  gaussian_steps,
)
from diffusion_jax.metrics import table
from diffusion_jax.ranges import Finite, Probability, Size


class StateGuidance(NamedTuple):
  """Guidance without a classifier, uncond + scale (cond - uncond) of logits."""

  scale: Finite


@dataclass(frozen=True, kw_only=True)
class StateSampling(Sampling):
  """Says how images and texts are drawn, as states (docs/samplers.md)."""

  sampler: Node
  grid: Steps | Respaced  # the levels that are visited
  order: Starts | None = None  # in which the elements start; None: all together
  guidance: StateGuidance | None = None
  top_p: Probability = 1.0  # the most probable states that add up to this probability are kept
  remasking: Probability = 0.0  # eta, how many elements are masked again

  schedule: ClassVar[Schedule | None] = None  # the training's


class StateEmbedding(NamedTuple):
  """What a network of states reads and returns.

  features: width of the embedding of a state. output: logits, or the mean and
  the log scale of a logistic, which has no masked state.
  """

  features: Size = 32
  output: Literal['logits', 'logistic'] = 'logits'


class StateFacts(TypedDict):
  """Parameters of transitions, objectives and samplers that are not fields.

  num_steps: T, None in continuous time; states: batch -> x_0.
  """

  num_values: int
  schedule: dj.Schedule
  num_steps: int | None
  process: NotRequired[StateProcess]
  network: NotRequired[dj.Network]
  states: NotRequired[Callable[[dict], jax.Array]]


_TABLES = {
  **choices.TABLES,
  'objective': named(discrete_states.masked, discrete_states.d3pm, discrete_states.uniform),
  'sampling.grid': sampling.grids(100),
  'schedule': {
    'polynomial_masking': dj.PolynomialMasking,
    'cosine_masking': dj.CosineMasking,
    'alpha_bar': dj.AlphaBarSchedule,
  },
  'schedule.schedule': SCHEDULES,
  'transitions': {
    'absorbing': dj.masking_process,
    'uniform': dj.uniform_process,
    'gaussian': gaussian_steps,
  },
  'sampling.sampler': {
    'ancestral': dj.ancestral_states,
    'first_hitting': dj.first_hitting,
    'confidence': dj.confidence_ordered,
  },
  'sampling.guidance': {'classifier_free': StateGuidance},
  'edit': {'inpaint': pictures.Inpaint},
  'edit.method': named(methods.replace),
  'data': {**DATA, 'text': text_files},
}

_FACTS = (*StateFacts.__annotations__,)
SCHEMA = diffusion.SCHEMA._replace(
  kind='a diffusion model of states',
  tables=_TABLES,
  choices=('schedule', 'transitions', 'network', 'noise_input', 'objective', *COMMON),
  parts={**diffusion.SCHEMA.parts, 'sampling': StateSampling, 'states': StateEmbedding},
  facts={
    **diffusion.SCHEMA.facts,
    'network': tuple(diffusion.SCHEMA.facts['network'])[1:],  # the network embeds states itself
    **dict.fromkeys(('objective', 'transitions', 'sampler'), _FACTS),
  },
  metrics={**table.OF_STATES, **table.METRICS},
  rules=(GUIDED_ALONE,),
)
