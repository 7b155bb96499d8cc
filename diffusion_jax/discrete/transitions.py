"""Processes on discrete states (Austin et al. 2021, D3PM).

Each element of x_t is one of K states and changes independently of the others.
Row i of the matrix Q_{t|s} [K, K] is the distribution of x_t given x_s = i, for
any two levels s < t. States are integers [B, ...], distributions [B, ..., K].
"""

import dataclasses
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from diffusion_jax.core.arguments import check_numbers, pytree_dataclass
from diffusion_jax.core.checked import Numbers, checked, is_array, needed
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_order
from diffusion_jax.core.products import finished
from diffusion_jax.core.step_schedules import betas_of
from diffusion_jax.declared import declares
from diffusion_jax.discrete.schedules import AlphaBarSchedule
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.ranges import Count, Positive, Rule, Several, Size

Array = jax.Array


@needed('a process of states, such as masking_process(10)')
class StateProcess(Protocol):
  """A Markov process on K states, a pytree."""

  @property
  def prior(self) -> Array:
    """Returns the distribution of pure noise, [K]."""
    ...

  @property
  def mask(self) -> int | None:
    """Returns the masked state, or None."""

  def multiply(
    self, probs: Array, level_s: NoiseLevel, level_t: NoiseLevel, transpose: bool = False
  ) -> Array:
    """Returns probs Q_{t|s} or probs Q_{t|s}^T, [B, ..., K].

    probs Q_{t|s} is the distribution of x_t if probs is the distribution of
    x_s. probs Q_{t|s}^T is q(x_t | x_s) as a function of x_s if probs is a
    one-hot x_t, and x_t itself if it is unmasked at alpha_t = 0. Levels: [] or
    [B]; ValueError if s is noisier than t, NaN under `jit`.
    """
    ...


def is_states(value: Any) -> bool:
  """Returns whether a value is an array of integers."""
  return is_array(value) and jnp.issubdtype(value.dtype, np.integer)


States = Annotated[Array, Rule('an array of states, integers', is_states)]


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ReplacementProcess:
  """x_t is x_0 with probability alpha, else a draw from the prior [K].

  Q_{t|s} = r I + (1 - r) 1 prior^T with r = alpha_t / alpha_s, for levels with
  sigma = 1 - alpha. K may be large, since no matrix is stored.
  """

  prior: Array
  mask: Count | None = dataclasses.field(default=None, metadata={'static': True})

  def __post_init__(self):
    if jnp.ndim(self.prior) != 1 or (self.mask or 0) >= len(self.prior):
      raise ValueError(
        f'prior {list(self.prior.shape)} must be [K], and mask, {self.mask}, one of its states'
      )
    if not isinstance(self.prior, Tracer):
      check_numbers(
        lambda total, least: (np.abs(total - 1.0) < 1e-3) & (least >= 0.0),
        'the prior must add up to 1, without negative entries',
        sum=np.sum(self.prior),
        minimum=np.min(self.prior),
      )

  def multiply(
    self, probs: Array, level_s: NoiseLevel, level_t: NoiseLevel, transpose: bool = False
  ) -> Array:
    """Returns probs Q_{t|s} or probs Q_{t|s}^T, [B, ..., K]."""
    s, t = (NoiseLevel.expand_to(x, probs) for x in (level_s, level_t))
    check_order(s, t)
    prior = self.prior.reshape((1,) * (probs.ndim - 1) + (-1,))
    left, right = (prior, 1.0) if transpose else (1.0, prior)
    replaced = jnp.sum(left * probs, axis=-1, keepdims=True) * right
    # It is alpha_s - alpha_t with more digits near clean data.
    lost = jnp.where(t.sigma < s.sigma - 1e-5, jnp.nan, t.sigma - s.sigma)
    stays = s.alpha == 0.0  # between two levels of noise
    product = (t.alpha * probs + lost * replaced) / jnp.where(stays, 1.0, s.alpha)
    product = jnp.where(stays, probs, product)
    if transpose and self.mask is not None:
      # At alpha_t = 0 an unmasked x_t is not drawn but given, as in x_s.
      is_given = jnp.all(product == 0.0, axis=-1, keepdims=True)
      product = jnp.where(is_given, probs, product)
    return product


@checked
@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MatrixProcess:
  """The process with explicit matrices Q_1..Q_T: `steps` [T, K, K].

  `products` [T+1, K, K] are the products of the first 0..T matrices. A level
  stands for step rint(t T); its alpha and sigma are not used. Neighbouring
  steps and clean data only need a look-up, other pairs the product of the
  matrices between them.
  """

  steps: Array
  products: Array
  prior: Array

  mask = None

  def __post_init__(self):
    steps, products, prior = map(jnp.shape, (self.steps, self.products, self.prior))
    if len(steps) != 3 or products != (steps[0] + 1, *steps[1:]) or steps[1:] != prior * 2:
      raise ValueError(
        f'steps {[*steps]}, products {[*products]} and prior {[*prior]} must be [T, K, K], '
        '[T+1, K, K] and [K]: MatrixProcess.from_matrices(steps) computes them'
      )

  @classmethod
  def from_matrices(
    cls, matrices: npt.ArrayLike, prior: npt.ArrayLike | None = None
  ) -> 'MatrixProcess':
    """Makes the process with Q_1..Q_T [T, K, K], multiplied in float64.

    prior: [K], uniform by default. Raises ValueError for other shapes and for
    rows that are not distributions.
    """
    steps = np.asarray(matrices, np.float64)
    if steps.ndim != 3 or steps.shape[1] != steps.shape[2]:
      raise ValueError(f'the matrices have shape {list(steps.shape)}: it must be [T, K, K]')
    check_numbers(
      lambda total, least: (np.abs(total - 1.0) < 1e-6) & (least >= 0.0),
      'each row must add up to 1, without negative entries',
      sum=steps.sum(axis=-1),
      minimum=steps.min(axis=-1),
    )
    products = [np.eye(steps.shape[1])]
    for step in steps:
      products.append(products[-1] @ step)
    if prior is None:
      prior = np.full(steps.shape[1], 1.0 / steps.shape[1])
    arrays = steps, np.stack(products), prior
    return cls(*(jnp.asarray(array, jnp.float32) for array in arrays))

  def multiply(
    self, probs: Array, level_s: NoiseLevel, level_t: NoiseLevel, transpose: bool = False
  ) -> Array:
    """Returns probs Q_{t|s} or probs Q_{t|s}^T, [B, ..., K]."""
    matrix = self._between(level_s, level_t)
    axes = max(1, matrix.ndim - 2)  # with a level of their own
    matrix = matrix.reshape((1,) * (axes + 2 - matrix.ndim) + matrix.shape)
    if transpose:
      matrix = jnp.swapaxes(matrix, -2, -1)
    shape = *probs.shape[:axes], -1, probs.shape[-1]
    return _matmul(probs.reshape(shape), matrix).reshape(probs.shape)

  def _between(self, level_s, level_t):
    # Returns Q_{t|s}, [K, K] or, for levels [B] or [B, T], [B, K, K] or [B, T, K, K].
    check_order(level_s, level_t)
    s, t = (jnp.rint(level.t * len(self.steps)).astype(int) for level in (level_s, level_t))
    return _products(s + jnp.zeros_like(t), t, self.steps, self.products)


@on_auto_axes
def _products(s, t, steps, products):
  # Returns the products of the steps from s to t, [..., K, K].
  def product(s, t):
    clean = s == 0
    eye = jnp.eye(steps.shape[-1], dtype=steps.dtype)
    first = jnp.where(clean, products[t], eye)
    start = jnp.where(clean, t, s)
    first = jnp.where(s > t, jnp.nan, first)
    return jax.lax.fori_loop(start, t, lambda i, matrix: _matmul(matrix, steps[i]), first)

  return jnp.vectorize(product, signature='(),()->(k,k)')(s, t)


def _matmul(a, b):
  return finished(jnp.matmul(a, b, precision='highest'))


@declares(what='any of the K states: Q = r I + (1 − r) 1 πᵀ, r = α_t / α_s')
@checked
def uniform_process(num_values: Size) -> ReplacementProcess:
  """Makes the process with uniform noise on num_values states (D3PM, A.2.1)."""
  return ReplacementProcess(jnp.full(num_values, 1.0 / num_values))


@declares(what='one more state, "masked", K; Q is the same')
@checked
def masking_process(num_values: Size) -> ReplacementProcess:
  """Makes the process whose noise is an additional state, "masked".

  The states of data are 0..num_values-1, the masked state is num_values, and
  networks return K = num_values + 1 logits. It is the process of MD4 and MDLM,
  and D3PM's absorbing one (A.2.2).
  """
  with jax.ensure_compile_time_eval():  # `prior_sample_states` knows that nothing is drawn
    prior = jnp.asarray(np.arange(num_values + 1) == num_values, jnp.float32)
  return ReplacementProcess(prior, num_values)


@checked
def gaussian_process(num_values: Several, betas: Numbers) -> MatrixProcess:
  """Makes the process with `gaussian_matrix` for each of betas [T]."""
  matrices = [gaussian_matrix(num_values, beta) for beta in np.asarray(betas, np.float64)]
  return MatrixProcess.from_matrices(matrices)


@declares(
  what='neighbouring states first, `gaussian_process(K, betas)`: explicit Q_1..Q_T, as any others '
  'in `MatrixProcess`',
  refuses=lambda c, facts: (
    'it goes to near levels first, and tokens have no order: set transitions=absorbing or '
    'transitions=uniform' * facts.x.tokens
  ),
)
def gaussian_steps(num_values: int, schedule: Schedule) -> MatrixProcess:
  """Makes the process with the betas of an `AlphaBarSchedule` of steps.

  It goes to near states first (D3PM). Raises ValueError for other schedules.
  """
  inner = schedule.schedule if isinstance(schedule, AlphaBarSchedule) else None
  return gaussian_process(num_values, betas_of(inner, 'gaussian'))


@checked
def gaussian_matrix(num_values: Several, beta: Positive) -> np.ndarray:
  """Returns the discretised Gaussian of D3PM (A.2.3), float64 [K, K].

  Off the diagonal it is exp(-4 (i - j)^2 / ((K - 1)^2 beta)), divided by the
  sum of this over i - j = -(K - 1)..K - 1. The diagonal makes the rows add up
  to 1.
  """
  offsets = np.arange(1 - num_values, num_values)
  weights = np.exp(-4.0 * offsets**2 / ((num_values - 1) ** 2 * beta))
  places = np.arange(num_values)
  matrix = (weights / weights.sum())[places[:, None] - places - 1 + num_values]
  np.fill_diagonal(matrix, 0.0)
  np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
  return matrix


@checked
def transition_matrix(process: StateProcess, level_s: NoiseLevel, level_t: NoiseLevel) -> Array:
  """Returns Q_{t|s}, [K, K], between two levels []."""
  identity = jnp.eye(len(process.prior), dtype=process.prior.dtype)[None]
  return process.multiply(identity, level_s, level_t)[0]
