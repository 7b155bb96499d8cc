"""Costs and plans of a coupling: which y is paired with which x_0.

y is noise, or a point of another source. Flow matching on straight paths takes
pairs of any joint law of the data and the source (Tong et al. 2023). At short
distances the velocities y - x_0 of different pairs contradict each other less,
and a few Euler steps follow them. Arrays are x_0 [B, ...] and y [N, ...]; costs
and plans are [B, N]. `training.couplings` draws pairs.
"""

import math

import jax
import jax.numpy as jnp

from diffusion_jax.core.products import einsum

Array = jax.Array


def squared_distances(x0: Array, y: Array) -> Array:
  """Computes |x_0 - y|^2, summed over data axes, of all pairs, [B, N].

  A distance below the resolution of float32 is 0.
  """
  a, b = (jnp.reshape(v, (len(v), -1)) for v in (x0, y))
  norms = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None]
  product = einsum('id,jd->ij', a, b)
  square = norms - 2.0 * product
  return jnp.where(square > 1e-6 * norms, square, 0.0)


def sinkhorn(cost: Array, epsilon: Array | float, num_iterations: int = 100) -> Array:
  """Computes the logarithm of the entropic plan, [B, N] (Cuturi 2013).

  The plan minimises sum(plan * cost) + epsilon * sum(plan * log(plan)) among
  those whose rows add up to 1 / B and columns to 1 / N; after num_iterations,
  columns do so approximately. Differentiable; inf in cost forbids a pair.
  """
  log_kernel = -cost / epsilon
  log_rows, log_columns = (-math.log(n) for n in cost.shape)

  def of_rows(columns):
    return log_rows - jax.nn.logsumexp(log_kernel + columns[None], axis=1)

  def of_columns(_, columns):
    rows = of_rows(columns)
    return log_columns - jax.nn.logsumexp(log_kernel + rows[:, None], axis=0)

  columns = jax.lax.fori_loop(0, num_iterations, of_columns, jnp.zeros_like(cost[0]))
  return of_rows(columns)[:, None] + log_kernel + columns[None]


def condition_weight(distances: Array, gaps: Array, ratio: float) -> Array:
  """Computes the weight w of the conditions in the cost, [] (C2OT, 2025).

  With it, the share `ratio` of all pairs costs at most as much as the pair of
  the same row: distances[i, j] + w gaps[i, j] <= distances[i, i]. Small ratios
  keep the law of y given the condition. gaps: |c_i - c_j|^2; all [B, B]; w is
  at most 1e8, as in the release.
  """
  slack = jnp.diagonal(distances)[:, None] - distances
  always = jnp.where(slack >= 0.0, 1e8, -1e8)
  largest = jnp.where(gaps > 0.0, slack / jnp.where(gaps > 0.0, gaps, 1.0), always)
  return jnp.clip(jnp.quantile(largest, 1.0 - ratio, method='higher'), 0.0, 1e8)


def conditional_cost(distances: Array, cond: dict, ratio: float = 0.05) -> Array:
  """Adds C2OT's terms for conditions, [B, B] (Cheng & Schwing 2025).

  y_i is drawn for the condition of x_0 i. Pairs of two labels cost inf, since
  the law of y given the label would change otherwise; for contexts the term
  is |c_i - c_j|^2 by `condition_weight`. Raises ValueError for others.
  """
  other = sorted(cond.keys() - {'label', 'context', 'drop'})
  if other:
    raise ValueError(f'a coupling knows label and context, not the condition {other[0]!r}')
  cost = distances
  if 'context' in cond:
    gaps = squared_distances(cond['context'], cond['context'])
    cost += condition_weight(distances, gaps, ratio) * gaps
  if 'label' in cond:
    same = cond['label'][:, None] == cond['label'][None]
    cost = jnp.where(same, cost, jnp.inf)
  return cost
