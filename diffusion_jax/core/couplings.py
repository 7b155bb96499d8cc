"""Costs and plans of a coupling: which y is paired with which x_0.

y is noise, or a point of another source. Flow matching on straight paths takes
pairs of any joint law of the data and the source (Tong et al. 2023). At short
distances the velocities y - x_0 of different pairs contradict each other less,
and a few Euler steps follow them. Arrays are x_0 [B, ...] and y [N, ...]; costs
and plans are [B, N]. `training.couplings` draws pairs.
"""

import functools
import math

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import (
  as_float,
  check_numbers,
  check_positive,
  sum_data_axes,
)
from diffusion_jax.core.products import einsum

Array = jax.Array


def squared_distances(x0: Array, y: Array) -> Array:
  """Computes |x_0 - y|^2, summed over data axes, of all pairs, [B, N].

  Each has the digits of its own size, wherever the points are: the relative
  error is below 1e-3 in float32, and equal points have 0.
  """
  a, b = (jnp.reshape(as_float(v), (len(v), -1)) for v in (x0, y))
  if a.shape[1] <= 16:  # for so few columns this is as fast as a product
    squares = [jnp.square(u[:, None] - v[None]) for u, v in zip(a.T, b.T, strict=True)]
    return functools.reduce(jnp.add, squares)
  centre = 0.5 * (jnp.mean(a, axis=0) + jnp.mean(b, axis=0))[None]
  u, v = a - centre, b - centre
  norms = sum_data_axes(u**2)[:, None] + sum_data_axes(v**2)[None]
  square = norms - 2.0 * einsum('id,jd->ij', u, v)
  # The difference keeps no digits of points much closer than the norms.
  lost = jnp.any(square < 1e-3 * norms)

  def directly():
    return jnp.sum(jnp.square(a[:, None] - b[None]), axis=2)

  return jax.lax.cond(lost, directly, lambda: square)


def sinkhorn(
  cost: Array, epsilon: Array | float, num_iterations: int = 2000, tolerance: float = 1e-6
) -> Array:
  """Computes the logarithm of the entropic plan, [B, N] (Cuturi 2013).

  The plan minimises sum(plan * cost) + epsilon * sum(plan * log(plan)) among
  those whose rows add up to 1 / B and columns to 1 / N; inf forbids a pair. It
  iterates until `column_error` is at most `tolerance`, num_iterations times at
  most. Differentiable, as if all columns held. Where the precision of `cost`
  does not resolve cost / epsilon it raises ValueError, and is NaN under `jit`.
  """
  check_positive(epsilon=epsilon)
  log_rows, log_columns = (-math.log(n) for n in cost.shape)
  cost = as_float(cost)
  epsilon = jnp.asarray(epsilon, cost.dtype)

  def rows_of(columns, kernel):
    return log_rows - jax.nn.logsumexp(kernel + columns[None], axis=1)

  def update(potential, epsilon):  # updates the columns' potential, in the unit of the cost
    kernel = -cost / epsilon
    rows = rows_of(potential / epsilon, kernel)
    return epsilon * (log_columns - jax.nn.logsumexp(kernel + rows[:, None], axis=0))

  def gap(potential):  # the log of sums of columns over 1 / N
    return (potential - update(potential, epsilon)) / epsilon

  def solve(_, start):
    return _potential(update, cost, epsilon, start, num_iterations, tolerance)

  def tangent(of, values):  # Each block of pairs that are allowed has a free constant.
    return jnp.linalg.pinv(jax.jacobian(of)(values), hermitian=True) @ values

  kernel = -cost / epsilon
  columns = jax.lax.custom_root(gap, jnp.zeros_like(cost[0]), solve, tangent) / epsilon
  rows = rows_of(columns, kernel)
  size = jnp.mean(jnp.abs(rows)) + jnp.mean(jnp.abs(columns))
  rounding = jax.lax.stop_gradient(size * jnp.finfo(cost.dtype).eps)
  rule = f'{cost.dtype} does not resolve cost / epsilon: take a larger epsilon'
  check_numbers(lambda error: error < _ROUNDING, rule, **{'the error of the plan': rounding})
  return jnp.where(rounding < _ROUNDING, rows[:, None] + kernel + columns[None], jnp.nan)


_ROUNDING = 0.05  # The largest relative error of a plan by the rounding of its logarithm.


def _potential(update, cost, epsilon, start, num_iterations, tolerance):
  # Iterates update(potential, epsilon), from a large epsilon that is halved
  # (Schmitzer 2019), then with Nesterov's momentum, which restarts where it
  # points back (O'Donoghue & Candes 2015).
  most, least = (jnp.where(jnp.isfinite(cost), cost, x) for x in (-jnp.inf, jnp.inf))

  def unfinished(state):
    step, *_, error = state
    return (step < num_iterations) & (error > tolerance)

  def advance(state):
    step, epsilon_now, count, _, point, before, _ = state
    last = epsilon_now <= epsilon
    after = update(point, epsilon_now)
    error = jnp.max(jnp.abs(jnp.expm1((point - after) / epsilon)))
    onwards = last & (jnp.sum((after - point) * (after - before)) >= 0.0)
    count = jnp.where(onwards, count + 1.0, 0.0)
    following = after + count / (count + 3.0) * (after - before)
    smaller = jnp.maximum(0.5 * epsilon_now, epsilon)
    error = jnp.where(last, error, jnp.inf)
    return step + 1, smaller, count, point, following, after, error

  first = jnp.maximum(0.5 * (jnp.max(most) - jnp.min(least)), epsilon)
  zero = jnp.zeros_like(epsilon)
  state = 0, first, zero, start, start, start, jnp.full_like(epsilon, jnp.inf)
  return jax.lax.while_loop(unfinished, advance, state)[3]


def column_error(log_plan: Array) -> Array:
  """Computes the largest |N sum_i plan[i, j] - 1| over columns j, []."""
  sums = jax.nn.logsumexp(log_plan, axis=0) + math.log(log_plan.shape[1])
  return jnp.max(jnp.abs(jnp.expm1(sums)))


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
  return distances + _terms(distances, cond, ratio)


def centred_cost(x0: Array, y: Array, cond: dict, ratio: float = 0.05) -> Array:
  """Computes `conditional_cost` with x_0 and y centred, [B, B].

  A shift of all y adds a number to each row and each column, which changes no
  plan, and costs digits. `condition_weight` comes from the distances as they
  are, as in the release.
  """
  distances = squared_distances(*(v - jnp.mean(v, axis=0, keepdims=True) for v in (x0, y)))
  return distances + _terms(squared_distances(x0, y), cond, ratio)


def _terms(distances, cond, ratio):
  other = sorted(cond.keys() - {'label', 'context', 'drop'})
  if other:
    raise ValueError(f'a coupling knows label and context, not the condition {other[0]!r}')
  terms = jnp.zeros_like(distances)
  if 'context' in cond:
    gaps = squared_distances(cond['context'], cond['context'])
    terms = condition_weight(distances, gaps, ratio) * gaps
  if 'label' in cond:
    same = cond['label'][:, None] == cond['label'][None]
    terms = jnp.where(same, terms, jnp.inf)
  return terms
