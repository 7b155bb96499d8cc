"""Couplings: functions that pair the data of a batch with noise.

They take the whole batch, so that accumulation and the number of devices do not
change the pairs. core/couplings.py has the costs and the entropic plan.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.couplings import centred_cost, column_error, sinkhorn
from diffusion_jax.core.keys import draw_index
from diffusion_jax.core.levels import Schedule
from diffusion_jax.ranges import Positive, Probability, Size

Array = jax.Array
# (key, x0 [B, ...], y [B, ...], cond) -> i [B], such that x0 is paired with y[i];
# i = B, without a plan, pairs it with NaN
Coupling = Callable[[Array, Array, Array, dict], Array]


@dataclasses.dataclass(frozen=True)
class PlanCoupling:
  """A coupling that draws y for each x_0 from its row of a plan.

  log_plan(x0, y, cond) -> [B, B], NaN in rows without a plan.
  """

  log_plan: Callable[[Array, Array, dict], Array]

  def __call__(self, key: Key, x0: Array, y: Array, cond: dict) -> Array:
    """Draws i [B]."""
    return self.draw(key, x0, y, cond)[0]

  def draw(self, key: Key, x0: Array, y: Array, cond: dict) -> tuple[Array, Array]:
    """Draws i [B], and returns the plan's `column_error` [] with it."""
    plan = self.log_plan(x0, y, cond)
    error = column_error(plan)
    return jnp.where(jnp.isnan(error), len(y), draw_index(key, plan)), error


def paired(
  coupling: Coupling, key: Key, x0: Array, y: Array, cond: dict
) -> tuple[Array, dict[str, Array]]:
  """Returns y [B, ...] in the order of its pairs, and metrics [B] of the plan."""
  if isinstance(coupling, PlanCoupling):
    index, error = coupling.draw(key, x0, y, cond)
    metrics = {'column_error': jnp.broadcast_to(error, len(y))}
  else:
    index, metrics = coupling(key, x0, y, cond), {}
    is_whole = jnp.issubdtype(getattr(index, 'dtype', float), jnp.integer)
    if not is_whole or index.shape != (len(x0),):
      raise ValueError(
        f'coupling(key, x0, y, cond) must return i, whole numbers [{len(x0)}], such that x0[b] is '
        f'paired with y[i[b]], not {kind_of(index)}'
      )
  return jnp.asarray(y).at[index].get(mode='fill', fill_value=jnp.nan), metrics


def exact(cost: Array) -> Array:
  """Computes i [B] that minimises sum_b cost[b, i[b]], each column at most once.

  cost: [B, N], B <= N; inf forbids a pair. SciPy solves it on the host, also
  under `jit` and `vmap`, in about B^3 operations. No gradient flows through it.
  i is N where a cost is NaN, or a row has no pair.
  """

  def solve(*rows):
    from scipy.optimize import linear_sum_assignment

    try:
      return linear_sum_assignment(np.concatenate(rows))[1].astype(np.int32)
    except ValueError:
      return np.full(cost.shape[0], cost.shape[1], np.int32)

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
    return exact(centred_cost(x0, y, cond, condition_ratio))

  return index


@checked
def sinkhorn_coupling(
  epsilon: Positive = 0.05, num_iterations: Size = 1000, condition_ratio: Probability = 0.05
) -> Coupling:
  """Draws y for each x_0 from its row of the entropic plan of a batch.

  epsilon: of `sinkhorn`, over the mean squared distance of centred x_0 and y.
  num_iterations, at most: see `entropic_coupling`. condition_ratio: see
  `exact_coupling`. Raises ValueError.
  """

  def relative(x0, y):
    scale = sum(jnp.sum(jnp.var(v, axis=0)) for v in (x0, y))
    return epsilon * jnp.where(scale > 0.0, scale, 1.0)  # 0: all pairs are equal

  return entropic_coupling(relative, num_iterations, condition_ratio)


def entropic_coupling(
  epsilon: Callable[[Array, Array], Array | float], num_iterations: int, condition_ratio: float
) -> PlanCoupling:
  """Makes the coupling by `sinkhorn`, whose epsilon is a function of x_0 and y.

  It iterates until columns hold to 1 %, num_iterations times at most.
  """

  def log_plan(x0, y, cond):
    cost = centred_cost(x0, y, cond, condition_ratio)
    return sinkhorn(cost, epsilon(x0, y), num_iterations, 0.01)

  return PlanCoupling(log_plan)


def is_straight(schedule: Schedule) -> bool:
  """Returns whether the paths of a schedule are straight, such as `RectifiedFlowSchedule`.

  Any coupling has alpha' E[x_0 | x_t] + sigma' E[eps | x_t] as the velocity of its ODE; on straight
  paths the least total |x_0 - eps|^2 is optimal transport.
  """
  level = schedule(jnp.linspace(0.0, 1.0, 5))
  return bool(jnp.all(abs(level.alpha + level.sigma - 1.0) < 1e-4))
