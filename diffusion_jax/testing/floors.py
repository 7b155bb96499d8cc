"""Exact denoisers of a data set, whose losses say whether a network's is good.

`fit` reads a training set, and `exact` makes a `Network` that predicts what one
of three denoisers does, in the network's own parametrization. Any denoising
objective is then computed with it as with the network:

  objective = denoising(exact(network, 'linear'), schedule, times=times)
  loss, _ = objective({'network': fit(x_train)}, Context(), key, {'x': x_test})

The denoisers do not read conditions. 'nothing_learnt' knows the mean of the
data alone: E[x_0] and no noise. 'linear' is E[x_0 | x_t] of N(mean,
covariance), the best linear denoiser of the training set. 'memorised' is
E[x_0 | x_t] of the training examples themselves, the least loss on them.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.aliases import Params
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.parametrization import eps_from_x0, target
from diffusion_jax.core.products import einsum
from diffusion_jax.data.sources import Source, blocks, some_of
from diffusion_jax.ranges import check_value
from diffusion_jax.testing.oracles import Mixture

Array = jax.Array
Line = Literal['nothing_learnt', 'linear', 'memorised']
LINES: tuple[Line, ...] = get_args(Line)
MOST_NUMBERS = 4096  # of an example whose covariance is computed
MOST_EXAMPLES = 20_000  # that 'memorised' knows


class Fit(NamedTuple):
  """Holds what the denoisers know of a training set of examples of D numbers.

  mean: [D]; eigenvalues [D] and eigenvectors [D, D] of the covariance, None
  above MOST_NUMBERS; examples: [N, D].
  """

  mean: Array
  eigenvalues: Array | None
  eigenvectors: Array | None
  examples: Array

  @property
  def lines(self) -> tuple[Line, ...]:
    """The denoisers that it has: without a covariance, not 'linear'."""
    return LINES if self.eigenvalues is not None else ('nothing_learnt', 'memorised')


def fit(x: ArrayLike) -> Fit:
  """Returns the `Fit` of a training set x [N, ...]; ValueError for no row.

  Mean and covariance are of all rows; `memorised` knows the first MOST_EXAMPLES.
  """
  x = np.asarray(x, np.float32)
  batches = (x[i : i + 1000] for i in range(0, len(x), 1000))
  return fit_moments(*moments(batches), x[:MOST_EXAMPLES])


def of_source(
  source: Source, encode: Callable[[np.ndarray], np.ndarray], most: int = MOST_EXAMPLES
) -> Fit:
  """Returns the `Fit` of a source, whose examples `encode` brings into the model's units.

  Mean and covariance are of all examples in memory, and of the random ones that
  `memorised` knows, at most `most`, of others.
  """
  rows = [some_of(source, most)]
  examples = encode(source.read(rows[0])['x'])
  if source.in_memory:
    rows = blocks(len(source))
  batches = (encode(source.read(index)['x']) for index in rows)
  return fit_moments(*moments(batches), examples)


def metric_of(metrics: Container[str]) -> str:
  """Returns the metric of the estimates alone, without a learned variance."""
  return next(name for name in ('error', 'simple', 'loss') if name in metrics)


def fit_moments(mean: np.ndarray, cov: np.ndarray | None, examples: np.ndarray) -> Fit:
  """Returns the `Fit` of `moments` and of the examples of `memorised`, [N, ...]."""
  values = vectors = None
  if cov is not None:
    values, vectors = np.linalg.eigh(cov)
    values = np.maximum(values, 0.0)  # Rounding may leave less than 0.
  arrays = mean, values, vectors, np.reshape(examples, (len(examples), -1))
  return Fit(*(None if a is None else jnp.asarray(a, jnp.float32) for a in arrays))


def moments(batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns mean [D] and covariance [D, D] of the rows of all batches, float64.

  The covariance divides by the number of rows; None above MOST_NUMBERS. Raises
  ValueError for no row.
  """
  count, shift, total, square = 0, None, np.zeros(()), np.zeros(())
  for batch in batches:
    rows = np.reshape(batch, (len(batch), -1)).astype(np.float32)
    # A common shift, so that products in float32 lose no digits.
    shift = rows.mean(axis=0) if shift is None else shift
    rows -= shift
    count, total = count + len(rows), total + rows.sum(axis=0, dtype=np.float64)
    if len(shift) <= MOST_NUMBERS:
      square = square + rows.T @ rows
  if shift is None:
    raise ValueError('there are no training examples: the denoisers need 1 or more')
  apart = total / count
  cov = square / count - np.outer(apart, apart) if len(shift) <= MOST_NUMBERS else None
  return shift + apart, cov


def estimate(fitted: Fit, line: Line, xt: Array, level: NoiseLevel) -> tuple[Array, Array]:
  """Computes a denoiser's x_0 and eps, [B, ...], of x_t [B, ...] at a level [] or [B]."""
  check_value('line', line, Line)
  flat = xt.reshape(len(xt), -1)
  if line == 'nothing_learnt':
    x0 = jnp.broadcast_to(fitted.mean[None], flat.shape).reshape(xt.shape)
    return x0, jnp.zeros_like(xt)
  if line == 'memorised':
    x0 = memorised(fitted, flat, level)
  elif fitted.eigenvalues is None or fitted.eigenvectors is None:
    raise ValueError(f'linear needs a covariance, which {flat.shape[1]} numbers do not have here')
  else:
    values, vectors = fitted.eigenvalues[None], fitted.eigenvectors[None]
    oracle = Mixture(jnp.ones(1), fitted.mean[None], values, vectors)
    x0 = oracle.denoise(flat, level).x0
  x0 = x0.reshape(xt.shape)
  return x0, eps_from_x0(x0, xt, level)


def memorised(fitted: Fit, xt: Array, level: NoiseLevel) -> Array:
  """Computes sum_i w_i x_i, [B, D], the mean of the examples given x_t [B, D].

  w is the softmax over i of -|x_t - alpha x_i|^2 / (2 sigma^2).
  """
  at = level.expand_to(xt)
  # The squares of differences from the mean are smaller, and lose fewer digits.
  apart = fitted.examples - fitted.mean[None]
  residual = xt - at.alpha * fitted.mean[None]
  squares = 0.5 * jnp.sum(jnp.square(apart), axis=1)[None]
  logits = at.alpha * (einsum('bd,nd->bn', residual, apart) - at.alpha * squares)
  weights = jax.nn.softmax(logits / jnp.square(at.sigma), axis=1)
  return fitted.mean[None] + einsum('bn,nd->bd', weights, apart)


def exact(network: Network, line: Line) -> Network:
  """Returns a network that predicts what a denoiser does, for any objective.

  Its parameters are a `Fit`. It has the parametrization, the conditions and the
  other options of `network`, and no weights; a learned variance is the smaller
  one.
  """
  check_value('line', line, Line)
  fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(Network)}
  return _Exact(**fields, line=line)


@dataclasses.dataclass(frozen=True)
class _Exact(Network):
  line: Line = 'linear'

  def output(
    self,
    params: Params,
    xt: Array,
    level: NoiseLevel,
    cond: dict | None = None,
    key: Array | None = None,
  ) -> Array:
    x0, eps = estimate(params, self.line, xt, level)
    output = target(self.parametrization, x0, eps, level, self.sigma_data)
    if not self.learned_variance:
      return output
    return jnp.concatenate([output, -jnp.ones_like(output)], axis=-1)
