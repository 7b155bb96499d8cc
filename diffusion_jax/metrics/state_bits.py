"""Bits per dimension of diffusion models of discrete states."""

import functools
from typing import Protocol

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.data.sources import Source
from diffusion_jax.declared import declares
from diffusion_jax.metrics import order_gap, plots
from diffusion_jax.metrics.bits import in_bits
from diffusion_jax.metrics.metric import ExampleArrays, ImageModel, ModelMetric, numbers_of
from diffusion_jax.metrics.order_gap import ORDERS, ElementOrder
from diffusion_jax.ranges import Size

Array = jax.Array


class StateModel(ImageModel, Protocol):
  """What the bound of a diffusion model of states needs."""

  @property
  def num_steps(self) -> int | None:
    """The steps of a schedule in discrete time; None in continuous time."""
    ...

  def state_bound(
    self, params: Params, keys: Array, x0: Array, cond: dict, num_times: int, order: ElementOrder
  ) -> dict[str, Array]:
    """Returns the bound 'total' in nats, and its terms in discrete time."""
    ...


@declares(data='levels', lengths=True)
def state_elbo(num_times: Size = 64, order: ElementOrder = 'together') -> ModelMetric:
  """Bound of a diffusion model of states in bits/dim, bits per byte of text.

  num_times: calls of the network for each image in continuous time; a model in
  discrete time has a call for each of its steps. order: in which elements lose their
  noise, or the blocks of them that share a level, for a network with a level for each
  element; the bound holds in every order. Of texts with lengths it is of their bytes.
  """

  def measure(model: StateModel) -> ExampleArrays:
    def function(params, keys, x0, cond):
      nats = model.state_bound(params, keys, x0, cond, num_times, order)
      per_dim = functools.partial(dj.bits_per_dim, data_shape=x0.shape[1:])
      if 'valid' not in cond:
        return jax.tree.map(per_dim, nats)
      numbers = numbers_of(cond['valid'], x0)
      size = x0.size // len(x0)
      bits = jax.tree.map(lambda a: per_dim(a) * expand_to(size / numbers, a), nats)
      return bits | {'numbers': numbers}

    return function

  def calls(model: StateModel, train: Source | None) -> int:
    return model.num_steps or num_times

  return in_bits('elbo', measure, _terms, calls=calls)


@declares(
  data='levels',
  what='the bound of states along two orders, less that of all together ([why](#the-order-gap))',
  needs='a network with a level for each element, and 3 · `.num_times` calls for each example',
  lengths=True,
)
def state_order_gap(num_times: Size = 16) -> ModelMetric:
  """Difference of the bound of states between orders of the elements, in nats per number.

  See `order_gap`; num_times is that of `state_elbo`, for each order.
  """

  def measure(model: StateModel) -> ExampleArrays:
    def function(params, keys, x0, cond):
      def nats(order):
        return model.state_bound(params, keys, x0, cond, num_times, order)['total']

      if 'valid' not in cond:
        return {order: nats(order) / (x0.size // len(x0)) for order in ORDERS}
      numbers = numbers_of(cond['valid'], x0)
      return {order: nats(order) / numbers for order in ORDERS} | {'numbers': numbers}

    return function

  def calls(model: StateModel, train: Source | None) -> int:
    return len(ORDERS) * (model.num_steps or num_times)

  return ModelMetric(measure, order_gap.compute, order_gap.report, calls=calls)


def _terms(arrays, out):
  # Returns the terms of a bound in discrete time, and draws them.
  if 'diffusion' not in arrays or 'numbers' in arrays:  # The terms are of one length.
    return {}
  prior = float(arrays['prior'].mean())
  terms = arrays['diffusion'].sum(axis=0) / len(arrays['total'])
  print(f'L_T {prior:.4f} + L_0..L_T-1 {terms.sum():.4f}; {out}/terms.png')
  plots.plot_terms(out / 'terms.png', terms)
  return {'prior': prior, 'terms': terms.tolist()}
