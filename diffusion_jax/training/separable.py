"""Whether the loss of a batch is the mean over its rows, as it says."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.training.objectives import Context, Mean, Objective
from diffusion_jax.training.step import rows

# The largest difference by rounding, in float32 and in bfloat16, of a loss of 1.
_ROUNDING, _OF_HALVES = 1e-3, 3e-2


def check_separable(objective: Objective, params: Params, frozen: Params, batch: PyTree) -> None:
  """Raises ValueError unless the loss of two examples is the mean of its values at each.

  A loss of the whole batch, whose author has not said separable=False, would be another loss in
  the parts of `accumulated`. Everything is given by its shapes, for which random numbers are
  drawn; the two examples have equal conditions. A loss that itself draws random numbers is not
  compared. The objective should be that of a test, without dropout.
  """
  rng = np.random.default_rng(0)

  def numbers(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return np.zeros(x.shape, x.dtype)
    inputs = max(1, np.prod(x.shape[:-1]))  # of a kernel, which then keeps the size of x
    return (rng.standard_normal(x.shape) / np.sqrt(inputs)).astype(x.dtype)

  params, frozen = jax.tree.map(numbers, (params, frozen))
  two: dict[str, np.ndarray] = {n: np.zeros((2, *x.shape[1:]), x.dtype) for n, x in batch.items()}
  two['x'] = rng.standard_normal(two['x'].shape).astype(np.float32)
  context = Context(0, params, frozen, objective.init())

  def losses(params, context, key, batch):
    inputs, keys = objective.draw(key, batch, context)
    other = jax.tree.map(lambda key: jax.random.fold_in(key, 1), keys)
    given = [(inputs, keys), (inputs, other), *((rows(inputs, i, 2), keys) for i in range(2))]
    return [_checked(objective.loss(params, context, *x)) for x in given]

  key = jax.random.key(0)
  program = jax.jit(losses).trace(params, context, key, two)
  rounding = _OF_HALVES if 'bf16' in str(program.jaxpr) else _ROUNDING
  found = np.asarray(program.lower().compile()(params, context, key, two), np.float64)
  whole, again, *each = found
  draws = whole != again
  is_mean = abs(whole - np.mean(each)) <= rounding * np.abs(found).max()
  if not (draws or is_mean or not np.isfinite(found).all()):
    raise ValueError(
      f'it is {whole:.4g} of two examples, and {np.mean(each):.4g} in the mean of each alone: it '
      'needs the whole batch, which Objective(..., separable=False) says'
    )


def _checked(value):
  # Returns the loss of what a loss returns.
  if isinstance(value, tuple) and len(value) == 2 and jnp.shape(value[0]) == ():
    loss, more = value
    metrics = more[0] if isinstance(more, tuple) and len(more) == 2 else None
    if isinstance(metrics, dict) and isinstance(metrics.get('loss'), Mean):
      return loss
  raise ValueError(
    'it must return (loss [], (metrics, records)) with the metrics of objectives.means, '
    f'not {kind_of(value)}'
  )
