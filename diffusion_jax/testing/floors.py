"""Exact denoisers of a data set, whose losses say whether a network's is good.

`fit` reads a training set, and `exact` makes a `Network` that predicts what one
of three denoisers does, in the network's own parametrization. Any denoising
objective is then computed with it as with the network:

  objective = denoising(exact(network), schedule, times=times)
  params = {'network': fit(x_train).of('linear')}
  loss, _ = objective(params, Context(), key, {'x': x_test})

The denoisers do not read conditions. 'nothing_learnt' knows the mean of the
data alone: E[x_0] and no noise. 'linear' is E[x_0 | x_t] of N(mean,
covariance), the best linear denoiser of the training set. 'memorised' is
E[x_0 | x_t] of the training examples themselves, the least loss on them.

Above MOST_NUMBERS per example 'linear' has the variance of each frequency of
the discrete cosine transform of all axes but the last, along the principal axes
of the last: exact if these are uncorrelated, as in a stationary image far from
its borders, and else a linear denoiser that the best one is below.
"""

import math
import operator
from collections.abc import Callable, Container, Iterable
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.parametrization import eps_from_x0, target
from diffusion_jax.core.products import einsum
from diffusion_jax.data.sources import ArraySource, Source, blocks, some_of
from diffusion_jax.ranges import check_value

Array = jax.Array
Line = Literal['nothing_learnt', 'linear', 'memorised']
LINES: tuple[Line, ...] = get_args(Line)
MOST_NUMBERS = 4096  # of an example whose covariance is computed
MOST_EXAMPLES = 20_000  # that 'memorised' knows
MOST_VALUES = 64_000_000  # of all these examples together, 256 MB
# The lines of `by_line`; 'memorised' is on training examples there.
ROWS = *LINES, 'memorised_held_out'


class Fit(NamedTuple):
  """Holds what the denoisers know of a training set of examples of D numbers.

  mean: [D]; variances: along the columns of axes [D, D], or above MOST_NUMBERS
  [*shape], of the cosine transform, whose last axis is rotated by axes [C, C];
  examples: [N, D]; count: of the examples of mean and variances; line: the
  index in LINES of the denoiser, which may be traced.
  """

  mean: Array
  variances: Array
  axes: Array
  examples: Array
  count: int
  line: int | Array = LINES.index('linear')

  def of(self, line: Line) -> Self:
    """Returns the parameters of a denoiser."""
    check_value('line', line, Line)
    return self._replace(line=LINES.index(line))

  @property
  def limit(self) -> str:
    """Says how 'linear' is known; '' if it is the least loss of a linear denoiser."""
    size = len(self.mean)
    cosines = size > MOST_NUMBERS
    few = self.count < (100 if cosines else 10 * size)
    what = f'the {"cosine transform" if cosines else "covariance"} of {size:,} numbers'
    return f'by {what}, of {"only " * few}{self.count:,} examples' * (cosines or few)


def fit(x: ArrayLike) -> Fit:
  """Returns the `Fit` of a training set x [N, ...]; ValueError for no row."""
  return of_source(ArraySource(np.asarray(x, np.float32)), np.asarray)


def of_source(
  source: Source, encode: Callable[[np.ndarray], np.ndarray], most: int = MOST_EXAMPLES
) -> Fit:
  """Returns the `Fit` of a source, whose examples `encode` brings into the model's units.

  Mean and covariance are of all examples in memory, and of the random ones that
  `memorised` knows, at most `most` and MOST_VALUES numbers, of others and above
  MOST_NUMBERS. Raises ValueError for no example.
  """

  def read(index):
    return encode(source.read(index)['x'])

  size = math.prod(source.facts.x.shape)
  examples = read(some_of(source, min(most, max(1, MOST_VALUES // size))))
  if not len(examples):
    raise ValueError('there are no training examples: the denoisers need 1 or more')
  if size > MOST_NUMBERS:
    mean, variances, axes, count = spectrum(examples)
  else:
    batches = map(read, blocks(len(source), 4000)) if source.in_memory else [examples]
    mean, variances, axes, count = moments(batches, examples.mean(axis=0).ravel())
  examples = examples.reshape(len(examples), size)
  arrays = (jnp.asarray(a, jnp.float32) for a in (mean, variances, axes, examples))
  return Fit(*arrays, count=count)


def metric_of(metrics: Container[str]) -> str:
  """Returns the metric of the estimates alone, without a learned variance."""
  return next(name for name in ('error', 'simple', 'loss') if name in metrics)


def moments(
  batches: Iterable[np.ndarray], shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
  """Returns mean [D] of the rows of all batches, the axes of their covariance, and their number.

  These are eigenvalues [D] and eigenvectors [D, D], float64. The covariance
  divides by the number of rows. shift [D] is near the mean, so that products in
  float32 lose no digits.
  """
  count, total, square = 0, np.zeros(()), np.zeros(())
  for batch in batches:
    rows = np.reshape(batch, (len(batch), -1)) - shift
    count, total = count + len(rows), total + rows.sum(axis=0, dtype=np.float64)
    square = square + rows.T @ rows
  apart = total / count
  values, vectors = np.linalg.eigh(square / count - np.outer(apart, apart))
  # Rounding may leave eigenvalues below 0.
  return shift + apart, np.maximum(values, 0.0), vectors, count


def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
  """Returns mean [D], variances [*shape], axes [C, C] and number of examples x [N, *shape].

  The variances are of the orthonormal cosine transform along all axes of an
  example but the last, C, whose axes are the principal ones over all positions.
  A last axis of more than 256 numbers is transformed as well, and C is 1.
  """
  import scipy.fft  # not at every start of the program

  x = x if x.shape[-1] <= 256 else x[..., None]
  mean = x.mean(axis=0, dtype=np.float64)
  apart = x - mean.astype(np.float32)
  x = np.asarray(scipy.fft.dctn(apart, axes=range(1, x.ndim - 1), norm='ortho'))
  rows = x.reshape(-1, x.shape[-1])
  axes = np.linalg.eigh(rows.T @ rows)[1].astype(np.float32)
  variances = np.square(x @ axes).mean(axis=0, dtype=np.float64)
  return mean.ravel(), variances, axes, len(x)


def estimate(fitted: Fit, xt: Array, level: NoiseLevel) -> tuple[Array, Array]:
  """Computes a denoiser's x_0 and eps, [B, ...], of x_t [B, ...] at a level [] or [B]."""
  known = fitted, xt.reshape(len(xt), -1), level
  x0 = jax.lax.switch(fitted.line, (nothing_learnt, linear, memorised), *known)
  x0 = x0.reshape(xt.shape)
  learnt = fitted.line != LINES.index('nothing_learnt')
  return x0, jnp.where(learnt, eps_from_x0(x0, xt, level), 0.0)


def nothing_learnt(fitted: Fit, xt: Array, level: NoiseLevel) -> Array:
  """Returns the mean of the training set, [B, D], whatever x_t [B, D] is."""
  return jnp.broadcast_to(fitted.mean[None], xt.shape)


def linear(fitted: Fit, xt: Array, level: NoiseLevel) -> Array:
  """Computes m + C alpha (alpha^2 C + sigma^2)^-1 (x_t - alpha m), [B, D], of x_t [B, D]."""
  from jax.scipy.fft import dctn, idctn  # loads SciPy's

  variances, axes = fitted.variances[None], fitted.axes
  x = xt.reshape(len(xt), *fitted.variances.shape)
  at, transformed = level.expand_to(x), range(1, x.ndim - 1)
  x -= at.alpha * fitted.mean.reshape(variances.shape)
  x = einsum('...i,ij->...j', dctn(x, axes=transformed, norm='ortho'), axes)
  x *= at.alpha * variances / (jnp.square(at.alpha) * variances + jnp.square(at.sigma))
  x = idctn(einsum('...i,ji->...j', x, axes), axes=transformed, norm='ortho')
  return fitted.mean[None] + x.reshape(xt.shape)


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


def by_line(loss: Callable, fitted: Fit, x: Array, row: Array) -> dict[str, Any]:
  """Computes {line: loss(fitted, x)} of ROWS, in one program.

  'memorised' is on the training examples row [B] instead of x [B, ...].
  """

  def of(args):
    return loss(fitted._replace(line=args[0]), args[1])

  trained = fitted.examples[row].reshape(x.shape)
  losses = jax.lax.map(of, (jnp.array([0, 1, 2, 2]), jnp.stack([x, x, trained, x])))
  return {line: jax.tree.map(operator.itemgetter(i), losses) for i, line in enumerate(ROWS)}


def exact(network: Network) -> Network:
  """Returns a network that predicts what a denoiser does, for any objective.

  Its parameters are a `Fit`, which says which. It has the parametrization, the
  conditions and the other options of `network`, and no weights; a learned
  variance is the smaller one.
  """
  return _Exact(**vars(network))


class _Exact(Network):
  def output(self, params, xt, level, cond=None, key=None):
    x0, eps = estimate(params, xt, level)
    output = target(self.parametrization, x0, eps, level, self.sigma_data)
    if not self.learned_variance:
      return output
    return jnp.concatenate([output, -jnp.ones_like(output)], axis=-1)
