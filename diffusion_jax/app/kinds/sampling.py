"""The section `sampling` (docs/samplers.md), and the plan that models make of it."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app.config.schema import Constructors
from diffusion_jax.app.config.tree import Node
from diffusion_jax.core.keys import abstract_key, split_key
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.declared import Given, Unsaid, Use, declares
from diffusion_jax.paths import ReadPath, RunPath
from diffusion_jax.ranges import (
  Count,
  Finite,
  Levels,
  Positive,
  Probability,
  Rate,
  Rows,
  Rule,
  Seed,
  Size,
  Suffix,
)
from diffusion_jax.sampling.correctors import AncestralNoise, Churn, Langevin
from diffusion_jax.sampling.grids import Spacing
from diffusion_jax.sampling.inpainting import hold_padding
from diffusion_jax.sampling.sampler import Grids, of_each, sample_frames
from diffusion_jax.training.averaging import Width

Bound = Callable[[dj.Denoiser], dj.Denoiser]


class Guidance(NamedTuple):
  """Guides by a function, (pair, scale) -> denoiser."""

  scale: float
  guide: Callable[..., dj.Denoiser]


def draws_noise(sampler: Node) -> bool:
  """Returns whether the steps of a sampler draw noise, as ddim's do with eta."""
  return sampler.declared.draws_noise or bool(sampler.get('eta'))


class OfAverage(NamedTuple):
  """Takes an average of the parameters."""

  decay: Rate = 0.0  # one of training.average.more; 0: the main one


class Raw(NamedTuple):
  """Takes the parameters of the last step."""


class OfWidth(NamedTuple):
  """Takes an average that is made from the run's snapshots."""

  sigma_rel: Width  # its relative width


_NUMBERS = jax.Array, np.ndarray, float
_level_grid = jax.jit(dj.level_grid, static_argnames=('num_steps', 'spacing', 'end_clean'))


class Steps(NamedTuple):
  """Visits `number` levels."""

  number: int
  spacing: Spacing = 'uniform'

  def levels(self, schedule: dj.Schedule, end_clean: bool = True) -> dj.NoiseLevel:
    """Returns the levels to visit, [N + 1], the noisiest first."""
    # A schedule of arrays goes through one program, not 35; others, such as
    # a user's function, cannot be arguments of a program.
    arrays = all(isinstance(x, _NUMBERS) for x in jax.tree.leaves(schedule))
    grid = _level_grid if arrays else dj.level_grid
    return grid(schedule, self.number, self.spacing, end_clean=end_clean)


class Respaced(NamedTuple):
  """Visits some of the steps of a schedule of steps (docs/samplers.md)."""

  steps: str  # how many of them, or which: 250, 10,15,20 or ddim50

  def levels(self, schedule: dj.Schedule, end_clean: bool = True) -> dj.NoiseLevel:
    """Returns the levels to visit, [N + 1], the noisiest first."""
    total = num_steps_of(schedule)
    if total is None:
      raise ValueError('respaced needs a schedule of steps')
    return dj.step_levels(schedule, dj.respaced_steps(total, self.steps))


def grids(default: int) -> Constructors:
  """Returns the choices of a grid; default: of its number of levels."""

  def steps(number: Levels = default, spacing: Spacing = 'uniform') -> Steps:
    """Visits levels of the whole schedule.

    Args:
      number: of levels, for which sampling.num_steps stands too.
      spacing: the places of the levels.
    """
    return Steps(number, spacing)

  return {'steps': steps, 'respaced': Respaced}


def uniform_grids(default: int) -> Constructors:
  """Returns the choices of a grid of levels that are evenly spaced in time."""

  def steps(number: Levels = default) -> Steps:
    """Visits levels that are evenly spaced in time.

    Args:
      number: of levels, for which sampling.num_steps stands too.
    """
    return Steps(number)

  return {'steps': steps}


# The step at which each of T elements starts, of N steps each, for `dj.staggered`.
Starts = Callable[[int, int], np.ndarray]


@declares(what='element i starts `delay` i steps later (Diffusion Forcing, Chen et al. 2024)')
def pyramid(delay: Size = 1) -> Starts:
  """Starts each element some steps after the one before it.

  Args:
    delay: in steps.
  """
  return lambda count, num_steps: delay * np.arange(count)


@declares(what='`size` elements after another, one by one by default')
def blocks(size: Size = 1) -> Starts:
  """Starts each block of elements when the one before it is clean.

  Args:
    size: of a block, in elements.
  """
  return lambda count, num_steps: num_steps * (np.arange(count) // size)


@declares(what='one element after another, in any order')
def permutation(order: tuple[Count, ...]) -> Starts:
  """Starts each element when the one before it in `order` is clean.

  Args:
    order: all elements, from 0.
  """

  def starts(count, num_steps):
    if sorted(order) != [*range(count)]:
      raise ValueError(f'order must name each of 0..{count - 1} once')
    return num_steps * np.argsort(order)

  return starts


def ordered(
  levels: dj.NoiseLevel, order: Starts | None, num_elements: int, size: int = 1
) -> dj.NoiseLevel:
  """Returns a grid [N + 1] with a start for each element, [M + 1, 1, T]; None: as it is.

  size: of the groups of neighbours that share a level, which the order counts.
  """
  if order is None:
    return levels
  starts = np.repeat(order(num_elements // size, len(levels.t) - 1), size)
  return dj.staggered(levels, starts)


@declares(what='`clip` for data with levels, else none')
def auto() -> Bound:
  """Clips estimates of x_0 to [-1, 1], after guidance, if there are any and data have levels."""
  return dj.clip_denoised


@declares(what='x_0 within [−1, 1], `clip_denoised(denoise)`', data='levels')
def clip() -> Bound:
  """Clips estimates of x_0 to [-1, 1], after guidance."""
  return dj.clip_denoised


@declares(
  what='clip(x_0, −s, s) / s, s a quantile of |x_0|, at least 1, `dynamic_threshold(denoise, '
  'quantile)` (Saharia et al. 2022, section 2.3)',
  data='levels',
)
def quantile(quantile: Probability = 0.995, largest: Positive | None = None) -> Bound:
  """Clips to a quantile of |x_0| and divides by it (Saharia et al. 2022).

  Args:
    largest: the largest value of that quantile; None: any.
  """
  return functools.partial(dj.dynamic_threshold, quantile=quantile, max_value=largest)


Checkpoint = Annotated[
  str, Rule('latest, best or a step', lambda name: name in ('latest', 'best') or name.isdecimal())
]


@declares(
  what='ε − s σ ∇ log p(y | x_t), that is x_0 + s σ²/α ∇ log p(y | x_t), '
  '`classifier_guided(denoise, log_prob_fn, scale)` (Dhariwal & Nichol 2021, Alg. 2)'
)
class ClassifierGuidance(NamedTuple):
  """Guides by the classifier in the run folder `run`.

  Dhariwal & Nichol 2021. after_clip: x_0 is clipped before the classifier
  guides and not after, as in their code.
  """

  run: RunPath
  scale: Finite = 1.0
  after_clip: bool = False


@declares(fields={'context': 'context'}, instead='leave it out', uses=Use.USING)
@dataclass(frozen=True, kw_only=True)
class Sampling:
  """Says how many images are drawn, and by which weights (docs/samplers.md)."""

  num_samples: Unsaid[Rows] = 100
  batch_size: Unsaid[Size] = 100
  labels: Given[tuple[str | Count, ...]] = ()  # classes to sample in turn, names, 3 or #3; (): all
  # texts of the pictures in turn, separated by |; None: texts of the test split
  prompt: Given[str | None] = None
  # of the samples in turn, for data with lengths; (): drawn as the training examples have them
  lengths: Annotated[tuple[Size, ...], Use.GIVEN] = ()
  # npy or npz file of real numbers, each row a condition of num_samples
  # samples; '': of held-out examples
  context: Given[ReadPath] = ''
  context_row: Given[Count | None] = None  # the only row that is taken, from 0; None: all
  weights: Node  # averaged parameters, or the parameters of the last step
  checkpoint: Unsaid[Checkpoint] = 'latest'  # latest, best, or a step
  seed: Unsaid[Seed] = 0  # image i depends on the seed and i
  trajectory: Unsaid[bool] = False  # also a GIF of how the first ten images emerge
  profile: Unsaid[bool] = False  # draws the first batch twice more, for a trace for xprof
  name: Unsaid[Suffix] = ''  # of the files in samples/; '': samples and what differs from the run


@dataclass(frozen=True, kw_only=True)
class DenoiserSampling(Sampling):
  """Says how a diffusion model draws images (docs/samplers.md)."""

  # the step between two levels
  sampler: Node  # made with the schedule, for each sampling
  grid: Steps | Respaced  # the levels that are visited
  order: Starts | None = None  # in which the elements start; None: all together
  stride: Size | None = None  # by which the window of a rollout moves; None: half of it
  schedule: Schedule | None = None  # another schedule whose levels are visited
  guidance: Guidance | None = None  # by the condition, or by a worse run
  classifier: ClassifierGuidance | None = None  # guidance by a classifier
  bound: Bound | None = dj.clip_denoised  # of estimates of x_0
  churn: Churn | None = None  # noise before each step
  ancestral_noise: AncestralNoise | None = None  # noise after each step of a solver of the ODE
  corrector: Langevin | None = None  # Langevin steps before each step

  def __post_init__(self):
    before_clip = self.classifier is not None and self.classifier.after_clip
    if before_clip and self.bound is None:
      raise ValueError('classifier.after_clip needs a bound, such as bound=clip')


TABLES: dict[str, Constructors] = {
  'sampling.weights': {'average': OfAverage, 'raw': Raw, 'width': OfWidth},
  'sampling.grid': grids(1000),
  'sampling.order': {'pyramid': pyramid, 'blocks': blocks, 'permutation': permutation},
  'sampling.bound': {'auto': auto, 'clip': clip, 'quantile': quantile},
}
# Short forms: (the section, its choice, the field) that they stand for.
ALIASES = {
  'sampling.num_steps': ('sampling.grid', 'steps', 'number'),
  'training.mesh': ('training.machine', 'own', 'mesh'),
}


# -- how images are drawn ------------------------------------------------------

Wrap = Callable[[dj.Denoiser], dj.Denoiser]
FILM = 25, 10, 500  # levels, images and vectors of `Plan.film`


class Plan(NamedTuple):
  """How images are drawn with given parameters and guides.

  schedule: whose levels are visited. levels: [N + 1], the noisiest first; of several variables
  these and x are dicts.
  step_function(cond, after_guidance=None, clip=True, scale=None) -> the
  function that the sampler calls at each step: a denoiser, with
  self-conditioning a function x_0 -> denoiser, with some guidance a pair of
  denoisers, or a flow map; `after_guidance`
  is applied before x_0 is clipped; scale: of the guidance, [] and traced,
  instead of the config's.
  prior_sample(keys [B], level) -> pure noise [B, ...]. replace_known(sampler,
  known, mask) -> the sampler that keeps known pixels. denoises: whether step
  functions are denoisers of x. starts: whether samples start at cond['context']
  instead of noise. stride: of a window that moves along cond['known'], whose elements are
  held clean where they are known; 0: nothing is known. With cond['start'] samples start at
  these x_0, noised to the first level. With cond['valid'] what pads a sample is held at 0.
  place_given(x, cond) -> x with the variables that are given. others(x) -> further arrays of
  samples, {name: [B, ...]}.
  """

  schedule: dj.Schedule
  levels: Any
  sampler: dj.Sampler
  step_function: Callable[..., Callable]
  prior_sample: Callable[[jax.Array, Any], Any]
  replace_known: Callable[..., dj.Sampler] = dj.replace_known
  denoises: bool = False
  starts: bool = False
  stride: int = 0
  place_given: Callable[[Any, dict], Any] = lambda x, cond: x
  others: Callable[[Any], dict[str, jax.Array]] = lambda x: {}

  @property
  def num_steps(self) -> int:
    """The number of steps, N."""
    return len(jax.tree.leaves(self.levels)[0]) - 1

  def begin(self, keys: jax.Array, cond: dict) -> tuple[jax.Array, Any, Any]:
    """Returns (the sampler's keys [B], the levels to visit, x at the first one [B, ...])."""
    prior_keys, keys = split_key(keys, 2)
    if self.starts:
      return keys, self.levels, cond['context']
    first = at_step(self.levels, 0)
    x = self.prior_sample(prior_keys, first)
    if 'start' in cond:
      eps = x / jnp.sqrt(first.alpha**2 + first.sigma**2)
      x = dj.q_sample(cond['start'], eps, first)
    x = self.place_given(x, cond)
    if not self.stride or 'known' not in cond:
      return keys, self.levels, x
    return keys, *dj.hold_known(self.levels, x, cond['known'])

  def sampler_of(self, cond: dict) -> dj.Sampler:
    """Returns the sampler, which holds what pads an example."""
    return hold_padding(self.sampler, cond['valid']) if 'valid' in cond else self.sampler

  def window_of(self, cond: dict) -> int:
    """Returns the length of the window that moves along cond['known']; 0 if none has to."""
    if not self.stride or 'known' not in cond:
      return 0
    keys = jax.eval_shape(functools.partial(jax.random.split, num=1), abstract_key())
    window = jax.eval_shape(self.prior_sample, keys, at_step(self.levels, 0)).shape[1]
    return window if cond['known'].shape[1] > window else 0

  def from_noise(self, keys: jax.Array, cond: dict, after_guidance: Wrap | None = None) -> Any:
    """Returns samples [B, ...] of the keys [B]."""

    def draw(keys, cond):
      keys, levels, x = self.begin(keys, cond)
      step_function = self.step_function(cond, after_guidance=after_guidance)
      return dj.sample(keys, step_function, self.sampler_of(cond), levels, x)

    if not (window := self.window_of(cond)):
      return draw(keys, cond)
    return dj.roll_out(
      keys,
      lambda keys, known: draw(keys, cond | {'known': known}),
      cond['known'],
      window,
      self.stride,
    )

  def film(self, keys: jax.Array, cond: dict) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Returns samples [B, ...], the first ones at some levels [n, F, ...], and `others`.

    The samples equal `from_noise`'s; `spread_levels` chooses the levels. A sampler of
    particles has the `lowest_ess` [B]. A window that moves has no film.
    """
    if self.window_of(cond):
      return self.from_noise(keys, cond), None, {}
    keys, levels, x = self.begin(keys, cond)
    step_function = self.step_function(cond)
    arrays = jax.tree.leaves(x)
    vectors = all(a.ndim == 2 and jnp.issubdtype(a.dtype, jnp.floating) for a in arrays)
    x, states, state = sample_frames(
      keys,
      step_function,
      self.sampler_of(cond),
      levels,
      x,
      num_frames=FILM[0],
      num_examples=FILM[2 if vectors else 1],
    )
    ess = {'lowest_ess': state.lowest_ess} if hasattr(state, 'lowest_ess') else {}
    return x, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), states), ess | self.others(x)


def at_step(levels: Grids, i: int) -> Any:
  """Returns the levels of a grid, or of a dict of grids, at a step."""
  return of_each(lambda grid: grid.take(i), levels)


def of_numbers(levels: Grids) -> dj.NoiseLevel:
  """Returns the grid of x among the grids of several variables."""
  return levels['x'] if isinstance(levels, Mapping) else levels


class AtOnce(NamedTuple):
  """How a model draws images without steps; draw: (keys [B], cond) -> images."""

  draw: Callable[[jax.Array, dict], jax.Array]

  def film(self, keys: jax.Array, cond: dict) -> tuple[jax.Array, None, dict]:
    """Returns (samples [B, ...], None, {}); see `Plan.film`."""
    return self.draw(keys, cond), None, {}


def few_particles(lowest_ess: float, particles: int, what: str = 'the samples are not') -> str:
  """Returns a warning where few particles had nearly all the weight, or ''."""
  if lowest_ess >= max(1.5, 0.1 * particles):
    return ''
  return (
    f'. Few particles had nearly all the weight, so {what} reliable: take more '
    'particles, or more steps'
  )
