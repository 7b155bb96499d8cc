"""How far a model with a level for each element contradicts itself: its bound in several orders."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Json
from diffusion_jax.core.levels import clean_level, select_level
from diffusion_jax.data.sources import Source
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import Estimate, per_number
from diffusion_jax.metrics.likelihoods import DiffusionModel
from diffusion_jax.metrics.metric import (
  Arrays,
  ExampleArrays,
  ModelMetric,
  Score,
  as_json,
  numbers_of,
  table,
)
from diffusion_jax.ranges import Rate, Size

TOGETHER = 'together'
ElementOrder = Literal['together', 'left_to_right', 'right_to_left']
# The place of each element in an order, by its place from the left.
ORDERS: dict[ElementOrder, Callable[[np.ndarray], np.ndarray]] = {
  TOGETHER: lambda place: 0 * place,
  'left_to_right': lambda place: place,
  'right_to_left': lambda place: place[::-1],
}


class OrderedModel(DiffusionModel, Protocol):
  """A diffusion model whose network may take a level for each element."""

  @property
  def shared(self) -> int:
    """How many neighbours share a level."""
    ...

  @property
  def levels_differ(self) -> bool:
    """Whether noisy elements of an example have different levels in training."""
    ...


@declares(
  what=(
    'the bound along two orders of the elements, less that of all together '
    '(`dj.path_bound`), in nats per number: 0 for a model that agrees with itself '
    '([why](#the-order-gap))'
  ),
  needs='a network with a level for each element, and 3 · `.num_times` calls for each example',
  independent_noise=True,
  needs_denoiser=True,
  lengths=True,
)
def order_gap(num_times: Size = 16, t_min: Rate = 1e-3) -> ModelMetric:
  """Difference of the bound between orders of the elements, in nats per number.

  Elements are the entries of the first axis of an example, or the blocks of them that
  share a level. They lose their noise one after another from the left or from the right,
  or all together; the three have equal random numbers. num_times: levels of each example
  and order; t_min: the time of the last level of an element, as of `ode`. What pads an
  example is given.
  """

  def calls(model: OrderedModel, train: Source | None) -> int:
    return len(ORDERS) * num_times

  def measure(model: OrderedModel) -> ExampleArrays:
    check_levels(model)

    def function(params, keys, x0, cond):
      denoise, schedule = model.denoiser(params, cond), model.schedule(params)
      ends = schedule(jnp.asarray([1.0, t_min], x0.dtype))
      place = np.arange(x0.shape[1]) // model.shared
      valid = cond.get('valid')
      numbers = x0.size // len(x0) if valid is None else numbers_of(valid, x0)

      def nats(starts):
        path = clean_padding(dj.staggered(ends, starts), valid)
        bound = dj.path_bound(keys, denoise, schedule, path, x0, num_times=num_times)
        return bound / numbers

      counts = {} if valid is None else {'numbers': numbers}
      return counts | {name: nats(order(place)) for name, order in ORDERS.items()}

    return function

  return ModelMetric(measure, compute, report, calls=calls)


def clean_padding(levels: dj.NoiseLevel, valid: jax.Array | None) -> dj.NoiseLevel:
  """Returns a grid [N+1, 1, T] in which what pads an example is clean, [N+1, B, T].

  valid: bool [B, T]; None: no example is padded.
  """
  if valid is None:
    return levels
  return select_level(valid[None], levels, clean_level())


def check_levels(model: OrderedModel) -> None:
  """Raises ValueError for a model whose noisy elements have one level."""
  if not model.levels_differ:
    raise ValueError(
      'the network has one level for all that is noisy in an example, so that elements have no '
      'order: train one with objective.levels=independent, or leave order_gap out'
    )


def compute(arrays: Arrays) -> list[Score]:
  """Returns the mean of the differences to TOGETHER, with the interval of 95 %."""
  return [
    Score(f'order_gap_{name}', gap, f'nats/dim above {TOGETHER}, {interval(gap)}')
    for name in ORDERS
    if name != TOGETHER
    for gap in [per_number(difference(arrays, name), arrays.get('numbers'))]
  ]


def difference(arrays: Arrays, name: str) -> np.ndarray:
  """Returns the loss of an order less that of TOGETHER of each example, [N]."""
  return arrays[name].astype(np.float64) - arrays[TOGETHER]


def interval(estimate: Estimate) -> str:
  """Returns the interval of 95 % in words."""
  low, high = (estimate.value + sign * 1.96 * estimate.error for sign in (-1, 1))
  return f'95 %: {low:.3g} to {high:.3g}'


def report(arrays: Arrays, out: Path) -> Json:
  """Prints and returns the diffusion loss in each order."""
  numbers = arrays.get('numbers')
  losses = [
    Score(name, per_number(arrays[name], numbers), 'nats/dim, diffusion loss') for name in ORDERS
  ]
  print(table(losses))
  return {'orders': as_json(losses)}
