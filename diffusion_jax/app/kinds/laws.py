"""The law of data that declare it, in the user's units and as a network sees it."""

import inspect
import math

import numpy as np

from diffusion_jax.app.config.tree import Node
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.testing import oracles


def moments_of(data: Node, facts: Facts) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean [D] and covariance [D, D] of the D numbers of x, as the data declare them.

  Raises UserError for other arrays, and for a covariance that is not positive definite.
  """
  size, moments = math.prod(facts.x.shape), data.declared.moments
  assert moments is not None  # callers ask before
  fields = {name: data[name] for name in inspect.signature(moments).parameters if name in data}
  try:
    mean, cov = (np.asarray(x, np.float64) for x in moments(**fields))
    np.linalg.cholesky(cov)
    fits = mean.shape == (size,) and cov.shape == (size, size) and np.isfinite(mean).all()
  except (TypeError, ValueError, np.linalg.LinAlgError):
    fits = False
  if not fits:
    raise UserError(
      f'config.data={data.name}: its moments must be the mean [D] and a positive definite '
      f'covariance [D, D] of the D={size} numbers of x, or leave predictive and bound_parts out'
    )
  return mean, cov


def law_of(data: Node | None, facts: Facts) -> oracles.Mixture | None:
  """Returns the law of the numbers of x as a network sees them, [D]; None if it is not declared."""
  if data is None or data.declared.moments is None:
    return None
  mean, cov = moments_of(data, facts)
  std = np.ones(facts.x.shape) * (facts.x.std or 1.0)
  scale = 1.0 / std.ravel()
  centre = facts.x.encode(mean.reshape(facts.x.shape)).ravel()
  return oracles.gaussian(centre, cov * np.outer(scale, scale))
