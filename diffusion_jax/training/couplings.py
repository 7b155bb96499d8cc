"""Couplings: functions that pair the data of a batch with noise.

They take the whole batch, so that accumulation and the number of devices do not
change the pairs. core/couplings.py has the costs and the entropic plan.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import check_numbers
from diffusion_jax.core.couplings import conditional_cost, sinkhorn, squared_distances
from diffusion_jax.core.keys import draw_index
from diffusion_jax.core.levels import Schedule
from diffusion_jax.ranges import Positive, Probability, Size

Array = jax.Array
# (key, x0 [B, ...], y [B, ...], cond) -> i [B], such that x0 is paired with y[i]
Coupling = Callable[[Array, Array, Array, dict], Array]


def exact(cost: Array) -> Array:
  """Computes i [B] that minimises sum_b cost[b, i[b]], each column at most once.

  cost: [B, N], B <= N; inf forbids a pair. SciPy solves it on the host, also
  under `jit` and `vmap`, in about B^3 operations. No gradient flows through it.
  """

  def solve(*rows):
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(np.concatenate(rows))[1].astype(np.int32)

  # On CPUs, JAX copies arguments of more than 100 kB in a thread pool, all of
  # whose threads may wait for this very call.
  parts = min(len(cost), -(-cost.size // 2**14))
  rows = jnp.array_split(jax.lax.stop_gradient(cost), parts)
  index = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
  return jax.pure_callback(solve, index, *rows, vmap_method='sequential')


def exact_coupling(condition_ratio: Probability = 0.05) -> Coupling:
  """Pairs x_0 and y at the least sum of squared distances (OT-CFM).

  Tong et al. 2023, in each batch. condition_ratio: the share of pairs that
  contexts leave possible (C2OT); see `condition_weight`.
  """

  def index(key, x0, y, cond):
    return exact(conditional_cost(squared_distances(x0, y), cond, condition_ratio))

  return index


def sinkhorn_coupling(
  epsilon: Positive = 0.05, num_iterations: Size = 100, condition_ratio: Probability = 0.05
) -> Coupling:
  """Draws y for each x_0 from its row of the entropic plan of a batch.

  epsilon: of `sinkhorn`, over the mean squared distance. condition_ratio: see
  `exact_coupling`.
  """

  def index(key, x0, y, cond):
    distances = squared_distances(x0, y)
    cost = conditional_cost(distances, cond, condition_ratio)
    return draw_index(key, sinkhorn(cost, epsilon * jnp.mean(distances), num_iterations))

  return index


def check_straight(schedule: Schedule, coupling: Coupling | None) -> None:
  """Raises ValueError for a coupling on paths that are not straight."""
  if coupling is not None:
    level = schedule(jnp.linspace(0.0, 1.0, 5))
    total = {'alpha + sigma': level.alpha + level.sigma}
    rule = 'a coupling needs straight paths, as of RectifiedFlowSchedule, where it is 1'
    check_numbers(lambda x: abs(x - 1.0) < 1e-4, rule, **total)
