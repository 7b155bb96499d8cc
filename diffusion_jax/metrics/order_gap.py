"""How far a model with a level for each element contradicts itself: its bound in several orders."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Json
from diffusion_jax.data.sources import Source
from diffusion_jax.declared import declares
from diffusion_jax.metrics.estimates import Estimate, mean
from diffusion_jax.metrics.likelihoods import DiffusionModel
from diffusion_jax.metrics.metric import Arrays, ExampleArrays, ModelMetric, Score, as_json, table
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
)
def order_gap(num_times: Size = 16, t_min: Rate = 1e-3) -> ModelMetric:
  """Difference of the bound between orders of the elements, in nats per number.

  Elements are the entries of the first axis of an example, or the blocks of them that
  share a level. They lose their noise one after another from the left or from the right,
  or all together; the three have equal random numbers. num_times: levels of each example
  and order; t_min: the time of the last level of an element, as of `ode`.
  """

  def calls(model: OrderedModel, train: Source | None) -> int:
    return len(ORDERS) * num_times

  def measure(model: OrderedModel) -> ExampleArrays:
    check_levels(model)

    def function(params, keys, x0, cond):
      denoise, schedule = model.denoiser(params, cond), model.schedule(params)
      ends = schedule(jnp.asarray([1.0, t_min], x0.dtype))
      place = np.arange(x0.shape[1]) // model.shared

      def nats(starts):
        path = dj.staggered(ends, starts)
        bound = dj.path_bound(keys, denoise, schedule, path, x0, num_times=num_times)
        return bound / (x0.size // len(x0))

      return {name: nats(order(place)) for name, order in ORDERS.items()}

    return function

  return ModelMetric(measure, compute, report, calls=calls)


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
    for gap in [mean(difference(arrays, name))]
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
  losses = [Score(name, mean(arrays[name]), 'nats/dim, diffusion loss') for name in ORDERS]
  print(table(losses))
  return {'orders': as_json(losses)}
