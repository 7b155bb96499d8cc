"""The parts of the section `sampling` (docs/samplers.md)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app.config.schema import Table
from diffusion_jax.app.config.tree import Node
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Levels, Positive, Probability, Rate
from diffusion_jax.sampling.grids import Spacing
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


def grids(default: int) -> Table:
  """Returns the choices of a grid; default: of its number of levels."""

  def steps(number: Levels = default, spacing: Spacing = 'uniform') -> Steps:
    """Visits levels of the whole schedule.

    Args:
      number: of levels, for which sampling.num_steps stands too.
      spacing: the places of the levels.
    """
    return Steps(number, spacing)

  return {'steps': steps, 'respaced': Respaced}


def uniform_grids(default: int) -> Table:
  """Returns the choices of a grid of levels that are evenly spaced in time."""

  def steps(number: Levels = default) -> Steps:
    """Visits levels that are evenly spaced in time.

    Args:
      number: of levels, for which sampling.num_steps stands too.
    """
    return Steps(number)

  return {'steps': steps}


def auto() -> Bound:
  """Clips estimates of x_0 to [-1, 1], after guidance, for data with levels."""
  return dj.clip_denoised


@declares(data='levels')
def clip() -> Bound:
  """Clips estimates of x_0 to [-1, 1], after guidance."""
  return dj.clip_denoised


@declares(data='levels')
def quantile(quantile: Probability = 0.995, largest: Positive | None = None) -> Bound:
  """Clips to a quantile of |x_0| and divides by it (Saharia et al. 2022).

  Args:
    largest: the largest value of that quantile; None: any.
  """
  return functools.partial(dj.dynamic_threshold, quantile=quantile, max_value=largest)


TABLES: dict[str, Table] = {
  'sampling.weights': {'average': OfAverage, 'raw': Raw, 'width': OfWidth},
  'sampling.grid': grids(1000),
  'sampling.bound': {'auto': auto, 'clip': clip, 'quantile': quantile},
}
# Short forms: (the section, its choice, the field) that they stand for.
ALIASES = {
  'sampling.num_steps': ('sampling.grid', 'steps', 'number'),
  'training.mesh': ('training.machine', 'own', 'mesh'),
}
