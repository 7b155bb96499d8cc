"""The constructors that configs of discrete states can name; see `choices`."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, NotRequired, TypedDict

import jax
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.app import choices
from diffusion_jax.app.sections import Sampling
from diffusion_jax.core.transitions import StateProcess
from diffusion_jax.data.text_files import text_files
from diffusion_jax.ranges import Finite, Probability, Size
from diffusion_jax.sampling.grids import Spacing
from diffusion_jax.training import discrete
from diffusion_jax.training.objectives import Network


class Facts(TypedDict):
  """Parameters of transitions, objectives and samplers that are not fields.

  num_steps: T, None in continuous time; states: batch -> x_0.
  """

  num_values: int
  schedule: dj.Schedule
  num_steps: int | None
  process: NotRequired[StateProcess]
  network: NotRequired[Network]
  states: NotRequired[Callable[[dict], jax.Array]]


def gaussian(num_values: int, schedule: dj.Schedule) -> dj.MatrixProcess:
  """Goes to near states first, by the betas of schedule=alpha_bar (D3PM)."""
  steps = getattr(schedule, 'schedule', None)
  betas = choices.betas_of(steps, 'gaussian', 'alpha_bar')
  return dj.gaussian_process(num_values, betas)


class Guidance(NamedTuple):
  """Guidance without a classifier, uncond + scale (cond - uncond) of logits."""

  scale: Finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSampling(Sampling):
  """Says how images and texts are drawn, as states (docs/samplers.md).

  Args:
    num_steps: number of levels
    spacing: the places of the levels
    respacing: the steps of the schedule to keep instead
    top_p: the most probable states that add up to this probability are kept
    remasking: eta, how many elements are masked again
  """

  sampler: ConfigDict
  num_steps: Size = 100
  spacing: Spacing = 'uniform'
  respacing: str = ''
  guidance: Guidance | None = None
  top_p: Probability = 1.0
  remasking: Probability = 0.0


class States(NamedTuple):
  """What a network of states reads and returns.

  features: width of the embedding of a state. output: logits, or the mean and
  the log scale of a logistic, which has no masked state.
  """

  features: Size = 32
  output: Literal['logits', 'logistic'] = 'logits'


@dataclasses.dataclass(frozen=True)
class Inpaint(choices.Edit):
  """Fills in the pixels that are not white in the picture `mask`."""

  mask: str = ''
  method: Literal['replace'] = 'replace'


TABLES = {
  'objective': {'masked': discrete.masked, 'd3pm': discrete.d3pm},
  'schedule': {
    'polynomial_masking': dj.PolynomialMasking,
    'cosine_masking': dj.CosineMasking,
    'alpha_bar': dj.AlphaBarSchedule,
  },
  'schedule.schedule': choices.SCHEDULES,
  'transitions': {
    'absorbing': dj.masking_process,
    'uniform': dj.uniform_process,
    'gaussian': gaussian,
  },
  'sampler': {
    'ancestral': dj.ancestral_states,
    'first_hitting': dj.first_hitting,
    'confidence': dj.confidence_ordered,
  },
  'sampling.guidance': {'classifier_free': Guidance},
  'edit': {'inpaint': Inpaint},
  'data': {**choices.DATA, 'text': text_files},
}
PARTS = {'sampling': StateSampling, 'states': States}
FACTS = dict.fromkeys(
  ('objective', 'transitions', 'sampler'), (*Facts.__annotations__,)
)
