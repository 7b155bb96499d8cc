"""Data distributions whose diffusion quantities have closed forms.

For x_0 ~ sum_k w_k N(m_k, C_k) the marginal at a level is again a mixture,
x_t ~ sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I). The best denoiser, the
score and the log-density follow, and conditioning on some coordinates gives
another mixture. For a Gaussian (a mixture of one) the entropy and the map of
the probability-flow ODE are known too; for a mixture `flow_map` solves the ODE.

To test a sampler, run it with `oracle.denoise` instead of a network and compare
its samples with `oracle.mean` and `oracle.cov`. To test a few-step model,
compare it with `oracle.flow_map` point by point.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key
from diffusion_jax.core.denoiser import Denoiser, Prediction
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level
from diffusion_jax.core.process import level_slopes
from diffusion_jax.core.products import einsum, finished
from diffusion_jax.core.schedules import RectifiedFlowSchedule

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """A Gaussian mixture, x_0 ~ sum_k weights[k] N(means[k], C_k) on R^D.

  weights: [K], means: [K, D]; C_k = Q_k diag(v_k) Q_k^T with Q_k in
  eigenvectors [K, D, D] and v_k in eigenvalues [K, D]. All methods take x [B,
  D] and a level [] or [B], `denoise`, `score` and `log_prob` also [B, D] or [1, D];
  densities are in nats.
  """

  weights: Array
  means: Array
  eigenvalues: Array
  eigenvectors: Array

  @property
  def mean(self) -> Array:
    """Returns E[x_0], [D]."""
    return einsum('k,ki->i', self.weights, self.means)

  @property
  def cov(self) -> Array:
    """Returns Cov[x_0], [D, D]."""
    return _cov(*self._arrays())

  def sample(self, key: Key, n: int) -> Array:
    """Draws n values of x_0, [n, D]."""
    return _draws(key, n, *self._arrays())

  def log_prob(self, x: Array, level: NoiseLevel) -> Array:
    """Computes log q(x_t) of the marginal at a level, [B]."""
    if jnp.ndim(level.alpha) > 1:
      return _log_sum(self._of_elements(x, level)[0])
    return _log_sum(self._components(x, level)[0])

  def score(self, x: Array, level: NoiseLevel) -> Array:
    """Computes grad log q(x_t), [B, D]."""
    if jnp.ndim(level.alpha) > 1:
      log_joint, solved, _ = self._of_elements(x, level)
      return -einsum('bk,bkd->bd', jax.nn.softmax(log_joint, axis=1), solved)
    log_joint, rotated, variance = self._components(x, level)
    return -self._average(log_joint, rotated / variance)

  def denoise(self, x: Array, level: NoiseLevel) -> Prediction:
    """Computes E[x_0 | x_t], the estimate of the best denoiser."""
    if jnp.ndim(level.alpha) > 1:
      log_joint, _, moved = self._of_elements(x, level)
      means = self.means[None] + moved
      return Prediction(einsum('bk,bkd->bd', jax.nn.softmax(log_joint, axis=1), means))
    log_joint, rotated, variance = self._components(x, level)
    gain = self._per_example(level.alpha, x) * self.eigenvalues[None] / variance
    x0 = einsum('bk,ki->bi', jax.nn.softmax(log_joint, axis=1), self.means)
    x0 += self._average(log_joint, gain * rotated)
    return Prediction(x0)

  def component(self, k: int) -> 'Mixture':
    """Returns component k, the data of class k if classes are components."""
    arrays = self.means, self.eigenvalues, self.eigenvectors
    return Mixture(jnp.ones(1), *(a[k : k + 1] for a in arrays))

  def class_log_prob(self, x: Array, level: NoiseLevel) -> Array:
    """Computes log p(k | x_t) of the best classifier, [B, K]."""
    return jax.nn.log_softmax(self._components(x, level)[0], axis=1)

  def entropy(self, level: NoiseLevel | None = None) -> Array:
    """Computes -E log q(x_t) in nats; without a level, the entropy of x_0.

    Raises ValueError for a mixture of more than one Gaussian.
    """
    check_gaussian(self, 'entropy')
    variance = self.eigenvalues[0]
    if level is not None:
      alpha, sigma = (jnp.expand_dims(a, -1) for a in level[1:])
      variance = alpha**2 * variance.reshape((1,) * (alpha.ndim - 1) + (-1,))
      variance += sigma**2
    return 0.5 * jnp.sum(jnp.log(2.0 * jnp.pi * jnp.e * variance), axis=-1)

  def ode_map(self, x: Array, level_from: NoiseLevel, level_to: NoiseLevel) -> Array:
    """Maps x [B, D] from one level to another along the probability-flow ODE.

    Along each axis of C, on any path of levels, the distance from the mean is
    proportional to the marginal's standard deviation. Raises ValueError for a
    mixture of more than one Gaussian.
    """
    check_gaussian(self, 'ode_map')
    check_one_level(level_to, 'ode_map')
    _, rotated, variance = self._components(x, level_from)
    alpha, sigma = (self._per_example(a, x) for a in level_to[1:])
    new_variance = alpha**2 * self.eigenvalues[None] + sigma**2
    rotated *= jnp.sqrt(new_variance / variance)
    centred = einsum('kde,bke->bkd', self.eigenvectors, rotated)
    return (alpha * self.means[None] + centred)[:, 0]

  def flow_map(
    self,
    x: Array,
    level_t: NoiseLevel,
    level_s: NoiseLevel,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
  ) -> Array:
    """Maps x [B, D] from level t to level s along the probability-flow ODE.

    For a Gaussian this is `ode_map`. For mixtures Diffrax solves the ODE, and
    every coordinate of every example meets the tolerance; examples that need
    more than 4096 steps are NaN. It is a `FlowMap`, differentiable in forward
    mode (`jax.jvp`); for mixtures only in that mode.
    """
    if len(self.weights) == 1:
      return self.ode_map(x, level_t, level_s)
    return _solve(self, x, level_t, level_s, rtol, atol)

  def velocity(
    self,
    x: Array,
    level: NoiseLevel,
    schedule: Schedule = RectifiedFlowSchedule(),  # noqa: B008
  ) -> Array:
    """Computes E[dx_t/dt | x_t], [B, D], also at clean and signal-free levels.

    schedule: the schedule of the level.
    """
    alpha, sigma = (expand_to(a, x) for a in level_slopes(schedule, level.t))
    # E[eps | x_t] = -sigma score, which is not 0 / 0 at clean levels.
    eps = -expand_to(level.sigma, x) * self.score(x, level)
    return alpha * self.denoise(x, level).x0 + sigma * eps

  def average_velocity(
    self,
    x: Array,
    level_t: NoiseLevel,
    level_s: NoiseLevel,
    schedule: Schedule = RectifiedFlowSchedule(),  # noqa: B008
    **tolerance: float,
  ) -> Array:
    """Computes u = (x_t - x_s) / (t - s), [B, D]; the velocity where s = t.

    x_s is the result of `flow_map`, which gets the keywords.
    """
    elapsed = expand_to(level_t.t - level_s.t, x)
    change = x - self.flow_map(x, level_t, level_s, **tolerance)
    moved = elapsed != 0.0
    u = change / jnp.where(moved, elapsed, 1.0)
    return jnp.where(moved, u, self.velocity(x, level_t, schedule))

  def conditional(self, known: Array, mask: Array) -> 'Mixture':
    """Returns the distribution of x_0[~mask] given x_0[mask] = known[mask].

    known: [D], used where mask [D] is True; both must be concrete. The result
    is a `Mixture` of the unknown coordinates, in their order. Raises ValueError
    for other shapes or if every coordinate is known.
    """
    given, at = np.asarray(known), np.asarray(mask)
    d = self.means.shape[1]
    if given.shape != (d,) or at.shape != (d,) or at.dtype != bool:
      raise ValueError(
        f'known {list(given.shape)} and mask {list(at.shape)} must be [{d}], the mask of booleans'
      )
    if at.all():
      raise ValueError('every coordinate is known: nothing is left')
    log_weights, means, covs = _measured(self, np.eye(d)[at], given[at], 0.0)
    return _of_logs(log_weights, means[:, ~at], covs[:, ~at][:, :, ~at])

  def covariance(self, x: Array, level: NoiseLevel) -> Array:
    """Computes Cov[x_0 | x_t], [B, D, D].

    It is (sigma^2 / alpha) times the Jacobian of E[x_0 | x_t].
    """
    log_joint, rotated, variance = self._components(x, level)
    alpha, sigma = (self._per_example(a, x) for a in level[1:])
    q, v = self.eigenvectors, self.eigenvalues[None]
    moved = einsum('kde,bke->bkd', q, alpha * v / variance * rotated)
    apart = self.means[None] + moved - self.denoise(x, level).x0[:, None]
    within = einsum('kde,bke,kfe->bkdf', q, sigma**2 * v / variance, q)
    between = apart[..., :, None] * apart[..., None, :]
    return einsum('bk,bkdf->bdf', jax.nn.softmax(log_joint, axis=1), within + between)

  def posterior(self, matrix: ArrayLike, y: ArrayLike, std: float) -> 'Mixture':
    """Returns p(x_0 | y) for y = matrix x_0 + std n, n ~ N(0, I).

    matrix: [M, D]; y: [M]; all concrete, computed in float64. Raises ValueError
    for other shapes and unless std > 0.
    """
    return _of_logs(*_measured(self, *_checked(self, matrix, y, std)), self.means.dtype)

  def denoiser_given(self, y: Array, std: float) -> Denoiser:
    """Returns the denoiser of p(x_0 | y) for y = x_0 + std n, y [D].

    x_t and y are together one measurement of x_0 with less noise. Unlike
    `posterior`, y may be traced.
    """

    def denoise(xt, level):
      check_one_level(level, 'denoiser_given')
      at = level.expand_to(xt)
      spread = jnp.sqrt((at.alpha * std) ** 2 + at.sigma**2)
      x = (at.alpha * std**2 * xt + at.sigma**2 * y[None]) / spread**2
      sigma = (at.sigma * std / spread)[:, 0]
      return self.denoise(x, NoiseLevel(level.t, jnp.ones(()), sigma))

    return denoise

  def log_evidence(self, matrix: ArrayLike, y: ArrayLike, std: float) -> np.float64:
    """Returns log p(y) of `posterior` in nats."""
    return np.logaddexp.reduce(_measured(self, *_checked(self, matrix, y, std))[0])

  def _components(self, x, level):
    # Returns log(w_k N(x; alpha m_k, alpha^2 C_k + sigma^2 I)), [B, K], and, in
    # the axes of C_k, x - alpha m_k and the variances, [B, K, D].
    check_one_level(level, 'this method of a mixture')
    alpha, sigma = (self._per_example(a, x) for a in level[1:])
    return _components(x, alpha, sigma, *self._arrays())

  def _of_elements(self, x, level):
    # The same for x_t = A x_0 + S eps with diagonal A and S: log(w_k N(x; A m_k, K)) with
    # K = A C_k A + S^2, K^-1 (x - A m_k) and E[x_0 - m_k | x_t, k], [B, K, D].
    at = level.expand_to(x)
    alpha, sigma = (jnp.broadcast_to(a, x.shape) for a in (at.alpha, at.sigma))
    return _of_elements(x, alpha, sigma, *self._arrays())

  def _arrays(self):
    return self.weights, self.means, self.eigenvalues, self.eigenvectors

  def _average(self, log_joint, rotated):
    # Rotates back from the axes of each C_k, weighted with p(k | x_t).
    posterior = jax.nn.softmax(log_joint, axis=1)
    return einsum('bk,kde,bke->bd', posterior, self.eigenvectors, rotated)

  def _per_example(self, value, x):
    return jnp.broadcast_to(value, x.shape[:1])[:, None, None]


# An eager call compiles one program instead of one for each operation.
@functools.partial(jax.jit, static_argnums=1)
def _draws(key, n, w, m, v, q):
  key, eps_key = jax.random.split(key)
  k = jax.random.categorical(key, jnp.log(w), shape=(n,))
  eps = jax.random.normal(eps_key, (n, m.shape[1])) * jnp.sqrt(v)[k]
  return m[k] + einsum('nie,ne->ni', q[k], eps)


_log_sum = jax.jit(functools.partial(jax.nn.logsumexp, axis=1))


@jax.jit
def _components(x, alpha, sigma, w, m, v, q):
  centred = x[:, None] - alpha * m[None]
  rotated = einsum('kde,bkd->bke', q, centred)
  variance = alpha**2 * v[None] + sigma**2
  density = rotated**2 / variance + jnp.log(2.0 * jnp.pi * variance)
  log_joint = finished(jnp.log(w)[None] - 0.5 * jnp.sum(density, axis=-1))
  return log_joint, rotated, variance


@jax.jit
def _of_elements(x, alpha, sigma, w, m, v, q):
  d = x.shape[1]
  cov = einsum('kie,ke,kje->kij', q, v, q)
  of_xt = alpha[:, None, :, None] * cov[None] * alpha[:, None, None]
  of_xt += jnp.square(sigma)[:, None, :, None] * jnp.eye(d)[None, None]
  root = jnp.linalg.cholesky(of_xt)
  centred = x[:, None] - alpha[:, None] * m[None]
  solved = jax.scipy.linalg.cho_solve((root, True), centred[..., None])[..., 0]
  log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=2, axis2=3)), axis=-1)
  square = jnp.sum(centred * solved, axis=-1)
  log_joint = jnp.log(w)[None] - 0.5 * (square + log_det + d * math.log(2.0 * math.pi))
  return log_joint, solved, einsum('kij,bkj->bki', cov, alpha[:, None] * solved)


@jax.jit
def _cov(w, m, v, q):
  centred = m - einsum('k,ki->i', w, m)[None]
  between = einsum('k,ki,kj->ij', w, centred, centred)
  return einsum('k,kie,ke,kje->ij', w, q, v, q) + between


def mixture(
  weights: ArrayLike, means: ArrayLike, covs: ArrayLike, dtype: DTypeLike = jnp.float32
) -> Mixture:
  """Returns a mixture of weights [K], means [K, D] and covs [K, D, D].

  Weights need not add up to 1. Raises ValueError for other shapes and for a
  covariance that is not symmetric and positive.
  """
  w, m, c = (np.asarray(a, np.float64) for a in (weights, means, covs))
  k, d = m.shape
  if w.shape != (k,) or c.shape != (k, d, d):
    raise ValueError(
      f'weights {list(w.shape)}, means {list(m.shape)} and covs '
      f'{list(c.shape)} must be [K], [K, D] and [K, D, D]'
    )
  values, vectors = np.linalg.eigh(c)
  if not np.allclose(c, c.swapaxes(1, 2)) or (values <= 0.0).any():
    raise ValueError('a covariance must be symmetric and positive')
  arrays = (w / w.sum(), m, values, vectors)
  return Mixture(*(jnp.asarray(a, dtype) for a in arrays))


def gaussian(mean: ArrayLike, cov: ArrayLike) -> Mixture:
  """Returns N(mean [D], cov [D, D]), a mixture of one."""
  return mixture(np.ones(1), np.asarray(mean)[None], np.asarray(cov)[None])


def check_gaussian(oracle: Mixture, name: str) -> None:
  """Raises ValueError with `name` for more than one component."""
  if len(oracle.weights) > 1:
    raise ValueError(
      f'{name} has a closed form for a Gaussian only, this is a mixture of {len(oracle.weights)}'
    )


def _solve(oracle, x, level_t, level_s, rtol, atol):
  # With z = x / sqrt(alpha^2 + sigma^2) and tan(angle) = sigma / alpha, every
  # path of levels has the same ODE, with the slope cos(angle) eps - sin(angle)
  # x_0. Each example has its own ends, at u = 0 and u = 1.
  import diffrax

  for level in (level_t, level_s):
    check_one_level(level, 'flow_map')
  ends = level_t, level_s
  first, last = (jnp.broadcast_to(jnp.arctan2(a.sigma, a.alpha), x.shape[:1]) for a in ends)
  scale_t, scale_s = (expand_to(jnp.hypot(a.alpha, a.sigma), x) for a in ends)

  def field(u, z, args):
    angle = first + u * (last - first)
    level = NoiseLevel(angle, jnp.cos(angle), jnp.sin(angle))
    sin, cos = expand_to(level.sigma, x), expand_to(level.alpha, x)
    slope = -sin * (cos * oracle.score(z, level) + oracle.denoise(z, level).x0)
    return expand_to(last - first, x) * slope

  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(field),
    diffrax.Tsit5(),
    0.0,
    1.0,
    None,  # Diffrax chooses the first step.
    x / scale_t,
    stepsize_controller=diffrax.PIDController(
      rtol, atol, norm=lambda error: jnp.max(jnp.abs(error))
    ),
    adjoint=diffrax.ForwardMode(),
    max_steps=4096,
    throw=False,
  )
  failed = solution.result != diffrax.RESULTS.successful
  last_z = jax.tree.map(lambda z: z[0], solution.ys)
  return scale_s * jnp.where(failed, jnp.nan, last_z)


def _of_logs(log_weights, means, covs, dtype=jnp.float32):
  return mixture(np.exp(log_weights - log_weights.max()), means, covs, dtype)


def moments(oracle: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns weights [K], means [K, D] and covariances [K, D, D] in float64."""
  weights, means, q, v = (
    np.asarray(a, np.float64)
    for a in (oracle.weights, oracle.means, oracle.eigenvectors, oracle.eigenvalues)
  )
  return weights, means, np.einsum('kie,ke,kje->kij', q, v, q)


def _checked(prior, matrix, y, std):
  matrix, y, d = np.asarray(matrix, np.float64), np.asarray(y, np.float64), prior.means.shape[1]
  if matrix.ndim != 2 or matrix.shape[1] != d or y.shape != matrix.shape[:1]:
    raise ValueError(f'matrix {list(matrix.shape)} and y {list(y.shape)} must be [M, {d}] and [M]')
  if not std > 0.0:
    raise ValueError(f'std is {std}: it must be above 0')
  return matrix, y, std


def _measured(prior, matrix, y, std):
  # Returns log(w_k N(y; A m_k, A C_k A^T + std^2 I)) [K], and the means and
  # covariances of each component given y.
  weights, means, covs = moments(prior)
  d = means.shape[1]
  across = covs @ matrix.T  # [K, D, M]
  inner = matrix @ across + std**2 * np.eye(len(y))
  gain = np.linalg.solve(inner, across.swapaxes(1, 2)).swapaxes(1, 2)
  residual = y - means @ matrix.T
  square = residual * np.linalg.solve(inner, residual[..., None])[..., 0]
  log_weights = np.log(weights) - 0.5 * square.sum(axis=1)
  log_weights -= 0.5 * np.linalg.slogdet(2.0 * np.pi * inner)[1]
  means = means + np.einsum('kdm,km->kd', gain, residual)
  # Joseph's form is positive also where std is small.
  kept = np.eye(d) - gain @ matrix
  covs = kept @ covs @ kept.swapaxes(1, 2)
  covs += std**2 * gain @ gain.swapaxes(1, 2)
  return log_weights, means, 0.5 * (covs + covs.swapaxes(1, 2))
