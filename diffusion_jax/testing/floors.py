"""Exact denoisers of a data set, whose losses say whether a network's is good.

`fit` reads a training set, and `exact` makes a `Network` that predicts what one
of three denoisers does, in the network's own parametrization. Any denoising
objective is then computed with it as with the network:

  objective = denoising(exact(network), schedule, times=times)
  params = {'network': fit(x_train).of('linear')}
  loss, _ = objective(params, Context(), key, {'x': x_test})

'nothing_learnt' knows only the mean of the data: E[x_0] and no noise. 'linear'
is E[x_0 | x_t] of N(mean, covariance), the best linear denoiser of the training
set. 'memorised' is E[x_0 | x_t] of the training examples themselves, the least
loss on them.

They read what the network reads. Given the class (`fit(x, label)`) mean,
covariance and examples are of the class. Given a context (`fit(x,
context=context)`) mean and covariance are the law of x_0 given the context, if
both are jointly Gaussian, and nothing is 'memorised': the context of a training
example says which one it is. An example whose conditions are dropped is
denoised without them. A network that reads text, a picture or some of the
numbers has no such floor.

Where the covariances of all classes have more than MOST_NUMBERS^2 numbers
'linear' has the variance of each frequency of the discrete cosine transform of
all axes but the last, along the principal axes of the last: exact if these are
uncorrelated, as in a stationary image far from its borders, and else a linear
denoiser that the best one is below.
"""

import math
import operator
from collections.abc import Callable, Collection, Container, Iterable
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel, Schedule
from diffusion_jax.core.losses import Weight
from diffusion_jax.core.parametrization import Kind, eps_from_x0, target
from diffusion_jax.core.products import einsum, softmax
from diffusion_jax.data.sources import ArraySource, Source, blocks, some_of
from diffusion_jax.data.spec import Facts
from diffusion_jax.ranges import check_value

Array = jax.Array
ExactLine = Literal['nothing_learnt', 'linear', 'memorised']
LINES: tuple[ExactLine, ...] = get_args(ExactLine)
MOST_NUMBERS = 4096  # the most numbers of an example whose covariance is computed
MOST_EXAMPLES = 20_000  # the most examples that 'memorised' knows
MOST_VALUES = 64_000_000  # the most numbers of all these examples together, 256 MB
# The words before `Fit.limit`.
NOT_LEAST = 'linear is not the least loss of a linear denoiser: '
# The words after a denoiser whose loss on held-out examples is infinite.
INFINITE = (
  'has no finite loss on held-out examples: its error of x_0 stays, and the weight of x_0 grows '
  'too fast towards clean data'
)
# What a network may read besides x_t, in words; only the first two are denoised with.
READ = {
  'label': 'a class',
  'context': 'a context',
  'text': 'a text',
  'image': 'a picture',
  'augment': 'how its examples are augmented',
}


class Fit(NamedTuple):
  """Holds what the denoisers know of a training set of examples of D numbers.

  The rows G of the first four arrays are of the classes in turn, or of all
  classes, given the context; the last row is of all examples, given nothing. It
  is the only one where the denoisers read nothing.

  mean: [G, D], where the context is 0; slope: [G, P, D], of the mean over the P
  numbers of the context, 0 of them without one; variances: [G, D], along the
  columns of axes [G, D, D], or [G, *shape] of the cosine transform, whose last
  axis is rotated by axes [G, C, C]. examples: [N, D], with their labels [N], or
  [0] without classes, and context [N, *context]; of_class: [K], the number of
  these examples in each class that is read, [0] if none is. count: of the
  examples of a row of mean and variances, the fewest; line: the index in LINES
  of the denoiser, which may be traced.
  """

  mean: Array
  slope: Array
  variances: Array
  axes: Array
  examples: Array
  labels: Array
  context: Array
  of_class: Array
  count: int
  line: int | Array = LINES.index('linear')

  def of(self, line: ExactLine) -> Self:
    """Returns the parameters of a denoiser; ValueError for one that there is not."""
    check_value('line', line, ExactLine)
    if line not in self.lines:
      raise ValueError(f'{line} has {no_floor(["context"])}')
    return self._replace(line=LINES.index(line))

  @property
  def lines(self) -> tuple[ExactLine, ...]:
    """The denoisers: given a context nothing is memorised."""
    return LINES[:2] if self.slope.shape[1] else LINES

  @property
  def limit(self) -> str:
    """Says how 'linear' is known; '' if it is the least loss of a linear denoiser."""
    size = sum(self.slope.shape[1:])
    cosines = self.axes.shape[1] < self.mean.shape[1]
    few = self.count < (100 if cosines else 10 * size)
    what = f'the {"cosine transform" if cosines else "covariance"} of {size:,} numbers'
    where, smallest = (' in each class', ' in the smallest') if len(self.of_class) else ('', '')
    of = f'of {"only " * few}{self.count:,} examples{smallest}'
    return f'by {what}{where}, {of}' * (cosines or few)

  def rows(self, index: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """Returns the batch of the examples of indices [B], {'x': [B, *shape], ...}."""
    batch = {'label': self.labels, 'context': self.context}
    batch = {name: x[index] for name, x in batch.items() if x.size}
    return {'x': self.examples[index].reshape(len(index), *shape)} | batch


def lines_of(reads: Collection[str], facts: Facts) -> tuple[ExactLine, ...]:
  """Returns the denoisers of data that read what a network reads, names of READ."""
  if not {*reads} <= {'label', 'context'}:
    return ()
  if 'context' in reads:
    return LINES[:2] if has_covariances(facts, reads) else ()
  return LINES


def no_floor(reads: Collection[str], facts: Facts | None = None) -> str:
  """Returns why what a network reads leaves no denoiser, or given a context none by heart.

  '' if it leaves all. facts: of the data, which may have too large a context.
  """
  others = [name for name in READ if name in reads and name not in ('label', 'context')]
  if others:
    return f'no floor: the network reads {READ[others[0]]}'
  if 'context' not in reads:
    return ''
  many = ''
  if facts and facts.context and not has_covariances(facts, reads):
    many = f' of {math.prod(facts.context.shape):,} numbers'
  return f'no floor: the network reads a context{many}'


def has_covariances(facts: Facts, reads: Collection[str]) -> bool:
  """Returns whether the covariances of x_0 and what is read are small enough."""
  size, classes, numbers = _sizes(facts, reads)
  return (1 + classes) * (size + numbers) ** 2 <= MOST_NUMBERS**2


def _sizes(facts, reads):
  # Returns the numbers of x, of the classes and of the context that are read.
  context = facts.context if 'context' in reads else None
  numbers = math.prod(context.shape) if context else 0
  return math.prod(facts.x.shape), facts.num_classes * ('label' in reads), numbers


def infinite_lines(weight: Weight, schedule: Schedule, kind: Kind) -> tuple[ExactLine, ...]:
  """Returns the denoisers whose mean loss on held-out examples is infinite.

  t has a density that does not vanish at 0, as `uniform_times` have. As sigma -> 0,
  'memorised' ends at the training example next to x_0 and, where the network predicts
  'x0', 'nothing_learnt' at the mean of the data. With this error of x_0 the mean is
  finite only if that of weight(schedule(t)) is, which grows as t^-p with p < 1: not snr,
  truncated_snr, v, edm and flow where sigma^2 falls as t or faster; min_snr and min_flow,
  and schedules with noise at t = 0, are bounded. 'linear' ends at x_0, but for what never
  changes in the training examples.
  """
  times = np.array([1e-6, 1e-4], np.float32)
  near, far = (float(w) for w in jax.jit(lambda: weight(schedule(times)) * jnp.ones(2))())
  if np.log(near / far) < 0.9 * np.log(100.0):  # p = 1 is measured as 1.00
    return ()
  return ('nothing_learnt', 'memorised') if kind == 'x0' else ('memorised',)


def fit(x: ArrayLike, label: ArrayLike | None = None, context: ArrayLike | None = None) -> Fit:
  """Returns the `Fit` of a training set x [N, ...]; ValueError for no row.

  The denoisers read the class, label [N] in 0, 1, ..., and the context [N, ...],
  if they are given.
  """
  classes = None if label is None else np.asarray(label, np.int32)
  context = None if context is None else np.asarray(context, np.float32)
  number = 0 if classes is None else 1 + int(classes.max(initial=0))
  source = ArraySource(np.asarray(x, np.float32), classes, number, context=context)
  given = {'label': label, 'context': context}
  return of_source(source, source.facts, [name for name, x in given.items() if x is not None])


def of_source(
  source: Source, facts: Facts, reads: Collection[str] = (), most: int = MOST_EXAMPLES
) -> Fit:
  """Returns the `Fit` of a source, whose arrays the facts of a run encode.

  reads: which of 'label' and 'context' the network reads. `memorised` knows random
  examples, at most `most`, with at most MOST_VALUES numbers. Mean and covariance of
  data in memory are of all examples; of other data, or by the cosine transform, they
  are of the examples that `memorised` knows. Raises ValueError for no example, and
  for other conditions (`no_floor`).
  """
  if not lines_of(reads, facts):
    raise ValueError(no_floor(reads, facts))
  size, classes, numbers = _sizes(facts, reads)

  def read(index):
    arrays = source.read(index)
    labels = arrays['label'] if 'label' in arrays else np.zeros(0, np.int32)
    context = np.zeros((len(index), 0), np.float32)
    if numbers and facts.context is not None:
      context = facts.context.encode(arrays['context'])
    return facts.x.encode(arrays['x']), labels, context

  examples, labels, context = read(some_of(source, min(most, max(1, MOST_VALUES // size))))
  if not len(examples):
    raise ValueError('there are no training examples: the denoisers need 1 or more')
  if has_covariances(facts, reads):
    first = (examples, labels, context)
    batches = map(read, blocks(len(source), 4000)) if source.in_memory else [first]
    shift = _joined(examples, context).mean(axis=0)
    count, mean, covariance = moments(batches, shift, classes)
    mean, slope, values, axes = given_context(mean, covariance, size)
  else:
    count, mean, values, axes = spectrum(examples, labels, classes)
    slope = np.zeros((len(mean), 0, size))
  for rows in (mean, slope, values, axes):
    # An empty class has the values of all examples.
    rows[np.flatnonzero(count[:-1] == 0)] = rows[-1]
  return Fit(
    *(jnp.asarray(rows, jnp.float32) for rows in (mean, slope, values, axes)),
    examples=jnp.asarray(examples.reshape(len(examples), size), jnp.float32),
    labels=jnp.asarray(labels, jnp.int32),
    context=jnp.asarray(context, jnp.float32),
    of_class=jnp.asarray(np.bincount(labels, minlength=classes)[:classes]),
    count=int(min(n for n in count if n)),
  )


def metric_of(metrics: Container[str]) -> str:
  """Returns the name of the loss without a learned variance: the error of the estimates."""
  return next(name for name in ('error', 'simple', 'loss') if name in metrics)


def _joined(x, context):
  # Returns the numbers of examples and of their contexts as rows.
  parts = x.reshape(len(x), -1), context.reshape(len(x), -1)
  # The rest of x_0 that the context does not explain may be small.
  return np.concatenate(parts, axis=1, dtype=np.float64) if parts[1].size else parts[0]


def moments(
  batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], shift: np.ndarray, classes: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns number [G], mean [G, D] and covariance [G, D, D] of rows, float64.

  The rows are of each of the classes, and the last of all. A covariance divides
  by the number of rows. batches: of examples, their labels and context, whose
  numbers are D together; shift [D] is near the mean, so that products in float32
  lose no digits.
  """
  size = len(shift)
  count = np.zeros(classes + 1)
  total, square = np.zeros((classes + 1, size)), np.zeros((classes + 1, size, size))
  for x, labels, context in batches:
    apart = _joined(x, context) - shift
    parts = [apart[labels == k] for k in range(classes)] or [apart]
    for k, rows in enumerate(parts):
      count[k] += len(rows)
      total[k] += rows.sum(axis=0, dtype=np.float64)
      square[k] += rows.T @ rows
  if classes:
    count[-1], total[-1], square[-1] = (a[:-1].sum(axis=0) for a in (count, total, square))
  number = np.maximum(count, 1.0)[:, None]
  mean = total / number
  square /= number[..., None]
  square -= mean[:, :, None] * mean[:, None]
  return count, shift + mean, square


def given_context(
  mean: np.ndarray, covariance: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns the law of x_0 given the context, if both are jointly Gaussian.

  mean: [G, D + P], covariance: [G, D + P, D + P] of x_0, size=D, and the context;
  the last row is given nothing, and without classes is one more than the others.
  Returns its mean at the context 0 [G, D], slope [G, P, D], and eigenvalues [G,
  D] and eigenvectors [G, D, D] of its covariance.
  """
  x, c = slice(size), slice(size, None)
  numbers = mean.shape[1] - size
  if numbers and len(mean) == 1:
    mean, covariance = (np.repeat(a, 2, axis=0) for a in (mean, covariance))
  slope = np.zeros((len(mean), numbers, size))
  within = covariance[:, x, x]
  if numbers:
    # Numbers of the context that others determine share their slope.
    inverse = np.linalg.pinv(covariance[:-1, c, c], rcond=1e-9, hermitian=True)
    slope[:-1] = inverse @ covariance[:-1, c, x]
    within = within - covariance[:, x, c] @ slope
  values, axes = np.linalg.eigh(within)
  at_zero = mean[:, x] - np.einsum('gp,gpd->gd', mean[:, c], slope)
  # Rounding may leave eigenvalues below 0.
  return at_zero, slope, np.maximum(values, 0.0), axes


def spectrum(
  x: np.ndarray, labels: np.ndarray, classes: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns number [G], mean [G, D], variances [G, *shape] and axes [G, C, C] of x [N, *shape].

  The rows are of each of the classes of labels [N], and the last of all. The
  variances are of the orthonormal cosine transform along all axes of an example
  but the last, C, whose axes are the principal ones over all positions. A last
  axis of more than 256 numbers is transformed as well, and C is 1.
  """
  import scipy.fft  # not at every start of the program

  x = x if x.shape[-1] <= 256 else x[..., None]
  shift = x.mean(axis=0, dtype=np.float64).astype(np.float32)
  x = np.asarray(scipy.fft.dctn(x - shift, axes=range(1, x.ndim - 1), norm='ortho'))

  def of_rows(rows):
    # The mean of an empty class is not used.
    rows = rows if len(rows) else np.zeros_like(x[:1])
    mean = rows.mean(axis=0, dtype=np.float64)
    rows = rows - mean.astype(np.float32)
    flat = rows.reshape(-1, x.shape[-1])
    axes = np.linalg.eigh(flat.T @ flat)[1].astype(np.float32)
    variances = np.square(rows @ axes).mean(axis=0, dtype=np.float64)
    mean = shift + scipy.fft.idctn(mean, axes=range(mean.ndim - 1), norm='ortho')
    return mean.ravel(), variances, axes

  parts = [*(x[labels == k] for k in range(classes)), x]
  mean, variances, axes = map(np.stack, zip(*map(of_rows, parts), strict=True))
  return np.array([*map(len, parts)]), mean, variances, axes


def estimate(
  fitted: Fit, xt: Array, level: NoiseLevel, cond: dict | None = None
) -> tuple[Array, Array]:
  """Computes a denoiser's x_0 and eps, [B, ...], of x_t [B, ...] at a level [] or [B].

  cond: what the network reads; its class and context are denoised with. Raises
  ValueError for others, and for those that the `Fit` does not know.
  """
  cond = cond or {}
  group = _group(fitted, cond, len(xt))
  mean = fitted.mean[group]
  if 'context' in cond:  # The last row is given nothing: its slope is 0.
    mean += _times(cond['context'].reshape(len(xt), -1), fitted.slope, group)
  lines = {'nothing_learnt': nothing_learnt, 'linear': linear, 'memorised': memorised}
  functions = [lines[line] for line in fitted.lines]
  flat = xt.reshape(len(xt), -1)
  x0 = jax.lax.switch(fitted.line, functions, fitted, flat, level, group, mean)
  x0 = x0.reshape(xt.shape)
  learnt = fitted.line != LINES.index('nothing_learnt')
  return x0, jnp.where(learnt, eps_from_x0(x0, xt, level), 0.0)


def _group(fitted, cond, size):
  # Returns the row of the Fit for each example, [B].
  if words := no_floor({*cond} - {'label', 'context'}):
    raise ValueError(words)
  known = {'label': len(fitted.of_class), 'context': fitted.slope.shape[1]}
  read = {name for name in known if name in cond}
  if read and read != {name for name, number in known.items() if number}:
    words = ' and '.join(READ[name] for name in sorted(read))
    raise ValueError(f'the network reads {words}: fit the denoisers with this and no more')
  last = len(fitted.mean) - 1
  group = jnp.full(size, last)
  if 'label' in cond:
    group = cond['label']
  elif 'context' in cond:
    group = jnp.zeros(size, int)
  return jnp.where(cond['drop'], last, group) if 'drop' in cond else group


def nothing_learnt(fitted: Fit, xt: Array, level: NoiseLevel, group: Array, mean: Array) -> Array:
  """Returns the mean [B, D], whatever x_t [B, D] is."""
  return mean


def linear(fitted: Fit, xt: Array, level: NoiseLevel, group: Array, mean: Array) -> Array:
  """Computes m + C alpha (alpha^2 C + sigma^2)^-1 (x_t - alpha m), [B, D], of x_t [B, D].

  group: [B], the row of C; mean: [B, D].
  """
  from jax.scipy.fft import dctn, idctn  # loads SciPy's

  variances = fitted.variances[group]
  x, shape = xt - level.expand_to(xt).alpha * mean, variances.shape
  x = x.reshape(shape)
  at, transformed = level.expand_to(x), range(1, x.ndim - 1)
  x = _times(dctn(x, axes=transformed, norm='ortho'), fitted.axes, group)
  x *= at.alpha * variances / (jnp.square(at.alpha) * variances + jnp.square(at.sigma))
  x = _times(x, jnp.swapaxes(fitted.axes, 1, 2), group)
  return mean + idctn(x, axes=transformed, norm='ortho').reshape(xt.shape)


def _times(x, matrices, group):
  # Returns x [B, ..., C] times matrices[group], which as an array would be large.
  def of(k):
    return einsum('...i,ij->...j', x, matrices[k])

  if len(matrices) == 1:
    return of(0)

  def add(k, total):
    return jnp.where(jnp.expand_dims(group == k, range(1, x.ndim)), of(k), total)

  zeros = jnp.zeros((*x.shape[:-1], matrices.shape[-1]))
  return jax.lax.fori_loop(0, len(matrices), add, zeros)


def memorised(fitted: Fit, xt: Array, level: NoiseLevel, group: Array, mean: Array) -> Array:
  """Computes sum_i w_i x_i, [B, D], the mean of the examples given x_t [B, D].

  w is the softmax over i of -|x_t - alpha x_i|^2 / (2 sigma^2), of the examples
  of the group [B]: of a class, if one of them is of it, or of all.
  """
  at = level.expand_to(xt)
  # The squares of differences from the mean are smaller, and lose fewer digits.
  shift = fitted.mean[-1][None]
  apart = fitted.examples - shift
  residual = xt - at.alpha * shift
  squares = 0.5 * jnp.sum(jnp.square(apart), axis=1)[None]
  logits = at.alpha * (einsum('bd,nd->bn', residual, apart) - at.alpha * squares)
  if classes := len(fitted.of_class):
    some = (group < classes) & (fitted.of_class[jnp.minimum(group, classes - 1)] > 0)
    others = some[:, None] & (fitted.labels[None] != group[:, None])
    logits = jnp.where(others, -jnp.inf, logits)
  weights = softmax(logits, jnp.square(at.sigma))
  return shift + einsum('bn,nd->bd', weights, apart)


def by_line(loss: Callable[[Fit], Any], fitted: Fit) -> dict[str, Any]:
  """Computes {line: loss(fitted)} of the lines of a `Fit`, in one program."""

  def of(line):
    return loss(fitted._replace(line=line))

  losses = jax.lax.map(of, jnp.arange(len(fitted.lines)))
  return {line: jax.tree.map(operator.itemgetter(i), losses) for i, line in enumerate(fitted.lines)}


def exact(network: Network) -> Network:
  """Returns a network that predicts what a denoiser does, for any objective.

  Its parameters are a `Fit`, which says which. It has the parametrization, the
  conditions and the other options of `network`, and no weights; a learned
  variance is the smaller one.
  """
  return _Exact(**vars(network))


class _Exact(Network):
  def output(self, params, xt, level, cond=None, key=None):
    x0, eps = estimate(params, xt, level, cond)
    output = target(self.parametrization, x0, eps, level, self.sigma_data)
    if not self.learned_variance:
      return output
    return jnp.concatenate([output, -jnp.ones_like(output)], axis=-1)
