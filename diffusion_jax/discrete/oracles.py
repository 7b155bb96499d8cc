"""Distributions of a few discrete variables, with exact diffusion quantities.

A `Table` holds the probability of each of the K^D values of x_0. The exact
denoiser, the bound and the distribution of ancestral samples are sums over the
table for any process. They are computed in float64 from matrices Q_1..Q_T
[T, S, S], where S is K, or K + 1 for a process with a masked state.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.checked import Key
from diffusion_jax.core.levels import clean_level
from diffusion_jax.core.products import einsum
from diffusion_jax.discrete.equations import (
  NEVER,
  StateDenoiser,
)
from diffusion_jax.discrete.transitions import StateProcess

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class JointTable:
  """The distribution of D variables with K values: probs [K, ..., K], float64.

  The variables are the elements of x_0 [B, ...], in their order.
  """

  probs: np.ndarray

  @property
  def states(self) -> np.ndarray:
    """Returns all values of x_0, [K^D, D], in the order of probs.ravel()."""
    return np.indices(self.probs.shape).reshape(self.probs.ndim, -1).T

  def entropy(self) -> float:
    """Returns the entropy of x_0 in nats."""
    p = self.probs[self.probs > 0.0]
    return float(-np.sum(p * np.log(p)))

  def sample(self, key: Key, n: int) -> Array:
    """Draws n values of x_0, integers [n, D]."""
    p = jnp.asarray(self.probs.ravel(), jnp.float32)
    return jnp.asarray(self.states)[jax.random.choice(key, len(p), (n,), p=p)]

  def conditional(self, known: np.ndarray, mask: np.ndarray) -> 'JointTable':
    """Returns the distribution of x_0 given x_0[mask] = known[mask], both [D].

    The result is a table of all D variables.
    """
    fits = np.all((self.states == known) | ~np.asarray(mask), axis=1)
    return table(self.probs * fits.reshape(self.probs.shape))

  def denoiser(self, process: StateProcess) -> StateDenoiser:
    """Returns the exact denoiser, with logits log p(x_0 | x_t) [B, ..., S]."""
    k, d = len(self.probs), self.probs.ndim
    one_hot = np.eye(k, dtype=np.float32)[self.states]
    with np.errstate(divide='ignore'):
      prior = np.maximum(np.log(self.probs.ravel()), NEVER).astype(np.float32)

    def denoise(xt, level):
      s = len(process.prior)
      hot = jax.nn.one_hot(xt.reshape(len(xt), d), s)
      q = process.multiply(hot, clean_level(), level, True)[..., :k]
      log_q = jnp.where(q > 0.0, jnp.log(jnp.where(q > 0.0, q, 1.0)), NEVER)
      joint = einsum('ndk,bdk->bn', one_hot, log_q) + prior[None]
      p = einsum('bn,ndk->bdk', jax.nn.softmax(joint), one_hot)
      logits = jnp.where(p > 0.0, jnp.log(jnp.where(p > 0.0, p, 1.0)), NEVER)
      logits = jnp.pad(logits, ((0, 0), (0, 0), (0, s - k)), constant_values=NEVER)
      return logits.reshape(*xt.shape, s)

    return denoise


def table(probs: np.ndarray) -> JointTable:
  """Returns the `Table` of weights [K, ..., K], which need not add up to 1."""
  probs = np.asarray(probs, np.float64)
  if len(set(probs.shape)) > 1 or (probs < 0.0).any():
    raise ValueError(
      f'the weights have the shape {list(probs.shape)}: all axes must have the '
      'same length, and no weight may be negative'
    )
  return JointTable(probs / probs.sum())


def chain(start: np.ndarray, transitions: np.ndarray, length: int) -> JointTable:
  """Returns the `Table` of a Markov chain: p(x_1) [K] and p(x_{i+1} | x_i) [K, K], in rows."""
  probs = np.asarray(start, np.float64)
  for _ in range(length - 1):
    probs = probs[..., None] * np.asarray(transitions, np.float64)
  return table(probs)


def expected_bound(oracle: JointTable, matrices: np.ndarray, prior: np.ndarray) -> dict:
  """Computes E[L_T] and E[L_{t-1}] of D3PM Eq. 1 for the exact denoiser, nats.

  matrices: Q_1..Q_T, [T, S, S], or [T, D, S, S] on a path where each variable has its
  own; prior: [S]. Returns 'prior' [], 'diffusion'
  [T], entry i being E[L_i], and 'total' [], at least the entropy of x_0.
  """
  k = len(oracle.probs)
  diffusion = []
  for weights, posterior, q in _steps(oracle, matrices):
    # q(x_s | x_t, x_0) against its mean over p(x_0 | x_t), for each variable.
    p = np.einsum('tdk,tdks->tds', posterior, q)
    terms = q * (_log(q) - _log(p)[:, :, None])
    diffusion.append(np.einsum('t,tdk,tdks->', weights, posterior, terms))
  last = functools.reduce(np.matmul, _of_variables(oracle, matrices))[:, :k]
  excluded = (last > 0.0) & (prior == 0.0)
  terms = last * (_log(last) - _log(prior))
  kl = np.sum(np.where(excluded, np.inf, terms), axis=-1)
  marginals = np.einsum('ndk,n->dk', np.eye(k)[oracle.states], oracle.probs.ravel())
  prior_kl = float(np.sum(kl * marginals))
  diffusion = np.array(diffusion)
  total = prior_kl + diffusion.sum()
  return {'prior': prior_kl, 'diffusion': diffusion, 'total': total}


def ancestral_law(oracle: JointTable, matrices: np.ndarray, prior: np.ndarray) -> np.ndarray:
  """Computes the distribution of `ancestral_states` with the exact denoiser.

  matrices: Q_1..Q_T of the sampler's steps, as in `expected_bound`; prior: [S], the
  distribution of x_T. Returns probabilities, [K, ..., K].
  """
  d, size = oracle.probs.ndim, len(prior)
  law = functools.reduce(np.multiply.outer, [prior] * d).ravel()
  for _, posterior, q in reversed(list(_steps(oracle, matrices))):
    p = np.einsum('tdk,tdks->tds', posterior, q)
    step = p[:, 0]
    for i in range(1, d):
      step = (step[:, :, None] * p[:, i, None]).reshape(len(p), -1)
    law = law @ step
  return law.reshape((size,) * d)[(slice(len(oracle.probs)),) * d]


def _log(p):
  # Returns the logarithm, and 0 for p = 0, where it is multiplied by 0.
  return np.log(np.where(p > 0.0, p, 1.0))


def _of_variables(oracle, matrices):
  # Returns the matrices of each variable, [T, D, S, S].
  matrices = np.asarray(matrices)
  if matrices.ndim == 4:
    return matrices
  shape = len(matrices), oracle.probs.ndim, *matrices.shape[1:]
  return np.broadcast_to(matrices[:, None], shape)


def _steps(oracle, matrices):
  # Yields q(x_t) [S^D], p(x_0 | x_t) [S^D, D, K] and q(x_s | x_t, x_0) [S^D, D,
  # K, S] for t = 1..T and s = t - 1.
  matrices = _of_variables(oracle, matrices)
  k, d, size = len(oracle.probs), oracle.probs.ndim, matrices.shape[-1]
  xt = np.indices((size,) * d).reshape(d, -1).T
  one_hot = np.eye(k)[oracle.states]
  before = np.stack([np.eye(size)] * d)
  for matrix in matrices:
    after = before @ matrix
    joint = np.ones((len(xt), oracle.probs.size)) * oracle.probs.ravel()
    for i in range(d):
      joint *= after[i, oracle.states[:, i]][:, xt[:, i]].T
    weights = joint.sum(axis=1)
    posterior = np.einsum('tn,ndk->tdk', joint, one_hot)
    posterior /= np.where(weights > 0.0, weights, 1.0)[:, None, None]
    from_t = np.stack([matrix[i][:, xt[:, i]].T for i in range(d)], axis=1)
    q = from_t[:, :, None] * before[:, :k]
    total = q.sum(axis=-1, keepdims=True)
    yield weights, posterior, q / np.where(total > 0.0, total, 1.0)
    before = after
