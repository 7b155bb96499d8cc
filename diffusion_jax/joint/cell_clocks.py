"""Clocks of cells: one time for all cells of a row that are noisy, and any others given."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from diffusion_jax.core.checked import checked
from diffusion_jax.declared import declares
from diffusion_jax.joint.network import JointNetwork
from diffusion_jax.joint.objectives import Clock, Clocks, denoising
from diffusion_jax.ranges import Count, Positive, Probability
from diffusion_jax.training.objectives import Objective

Array = jax.Array
# {name of a variable: how many elements it has} -> the clocks of the elements, [B, T] each.
CellClocks = Callable[[Mapping[str, int]], Clocks]


@declares(what='any cells of a row are given, the others noisy at one level', one_noisy_level=True)
@checked
def given_cells(probability: Probability = 0.5) -> CellClocks:
  """Makes clocks where any cells of a row are given, and the others have one time.

  With the probability a row has a rate from U(0, 1) at which each cell is given; one cell of
  a row is never given. Times are antithetic over a batch. So one network has every
  conditional of the columns (Simformer, Gloeckler et al. 2024).
  """

  def of_sizes(sizes: Mapping[str, Count]) -> Clocks:
    def clocks(key, batch_size, names):
      time_key, *keys = jax.random.split(key, 5)
      total = sum(sizes[name] for name in names)
      t = 1.0 - jnp.mod(jax.random.uniform(time_key) + jnp.arange(batch_size) / batch_size, 1.0)
      rate, some = (jax.random.uniform(k, (batch_size, 1)) for k in keys[:2])
      is_given = (jax.random.uniform(keys[2], (batch_size, total)) < rate) & (some < probability)
      never = jax.random.randint(keys[3], (batch_size, 1), 0, total)
      is_given &= jnp.arange(total)[None] != never
      drawn, start = {}, 0
      for name in names:
        own = is_given[:, start : start + sizes[name]]
        drawn[name] = Clock(jnp.where(own, 0.0, t[:, None]), ~own)
        start += sizes[name]
      return drawn

    return clocks

  return of_sizes


@declares(what='the sum of the losses of the cells of a row', estimates=False, denoises=False)
@checked
def cells(
  network: JointNetwork,
  arrays: Callable[[dict], Mapping[str, Array]],
  sizes: Mapping[str, int],
  *,
  levels: CellClocks,
  categories_weight: Positive = 1.0,
) -> Objective:
  """Makes `denoising` of numbers and categories, in the mean over the cells of a row.

  sizes: {name of a variable: its cells}; levels: the clocks of cells; categories_weight: of
  the variable 'categories', whose loss is in nats, beside 1 of 'numbers'.
  """
  total = sum(sizes.values())
  weights = {name: 1.0 / total for name in network.variables}
  if 'categories' in weights:
    weights['categories'] *= categories_weight
  return denoising(network, clocks=levels(sizes), weights=weights, arrays=arrays)
