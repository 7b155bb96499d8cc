"""Heuristic methods for measurements, as baselines.

More steps do not bring them to p(x_0 | y), and their settings depend on the
number of steps and pixels (docs/results.md has their errors).
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.arguments import as_float
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Denoiser, predict
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import Grid
from diffusion_jax.core.parametrization import eps_from_x0
from diffusion_jax.core.process import q_sample, sigma_ratio
from diffusion_jax.ranges import Finite, NonNegative, Probability
from diffusion_jax.sampling.sampler import Sampler

Array = jax.Array


@needed('an optimizer of optax, such as optax.adam(0.1)')
class Optimizer(Protocol):
  """An optax optimizer, `optax.adam(0.1)` for instance."""

  @property
  def init(self) -> Callable[..., PyTree]:
    """The function x -> state."""
    ...

  @property
  def update(self) -> Callable[..., tuple[PyTree, PyTree]]:
    """The function (gradient, state, x) -> (change of x, state)."""
    ...


@checked
def likelihood_guided(
  sampler: Sampler, distance: Callable[[Array], Array], step_size: NonNegative
) -> Sampler:
  """Subtracts step_size times the gradient of distance(x_0_hat) (DPS, Alg. 1).

  The gradient is taken in x_t, and subtracted from x_s (Chung et al. 2023). It
  is added at each step, so that other numbers of steps need other sizes.
  ValueError for a negative step_size.

  Args:
    distance: x_0 [B, ...] -> [B], such as `Measurement.distance`: the paper's
      code has this norm and not its square. Any cost has a gradient.
    step_size: zeta: 0.3 to 1 for `Measurement.distance` and 1000 steps of
      `ancestral` in the paper.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    def cost(x):
      prediction = predict(denoise, x, level_t)
      return jnp.sum(distance(prediction.x0)), prediction

    gradient, prediction = jax.grad(cost, has_aux=True)(x)

    def known(xt, level):
      # The first call of a sampler is not computed again.
      at_t = xt is x and level is level_t
      return prediction if at_t else denoise(xt, level)

    new, state = sampler.step(key, x, state, known, level_s=level_s, level_t=level_t)
    return new - step_size * gradient, state

  return Sampler(sampler.init, step)


@checked
def renoised(share: Probability) -> Sampler:
  """Makes the step of DiffPIR (Zhu et al. 2023, Alg. 1), after `proximal`.

  x_s = alpha_s x_0 + sigma_s (sqrt(1 - share) eps_hat + sqrt(share) z), with
  eps_hat the noise in x_t by x_0. share: zeta, in [0, 1] or ValueError; 0 is
  `ddim()`.
  """

  def step(key, x, state, denoise, *, level_s, level_t):
    x0 = predict(denoise, x, level_t).x0
    s, t = level_s.expand_to(x), level_t.expand_to(x)
    old, new = sigma_ratio(s, t) * (1.0 - share) ** 0.5, s.sigma * share**0.5
    return s.alpha * x0 + old * (x - t.alpha * x0) + new * draw_normal(key, x), state

  return Sampler(lambda x: (), step)


@checked
def red_diff(
  key: Key,
  denoise: Denoiser,
  levels: Grid,
  cost: Callable[[Array], Array],
  x: Array,
  optimizer: Optimizer,
  weight: Finite = 0.25,
) -> Array:
  """Estimates one x_0 for y by optimization (RED-diff, Mardani et al. 2024).

  It is not a sampler: it descends to a mode. Each step descends along grad
  cost(x) + weight (sigma / alpha) (eps_hat - eps), with noise eps at the step's
  level; it takes no gradient through the network.

  Args:
    key: [] or [B].
    levels: One per step and the clean level, [N+1], as for `sample`.
    cost: x_0 [B, ...] -> [B], |y - A x_0|^2 / 2 in the paper.
    x: The first estimate, [B, ...]; the paper's is the pseudoinverse of y.
    optimizer: Of optax; the paper's is adam(0.1, b1=0.9, b2=0.99).
    weight: lambda, of the network's part.
  """

  def body(carry, inputs):
    x, state = carry
    key, level = inputs
    eps = draw_normal(key, x)
    xt = q_sample(x, eps, level)
    eps_hat = eps_from_x0(predict(denoise, xt, level).x0, xt, level)
    at = level.expand_to(x)
    ratio = at.sigma / jnp.maximum(at.alpha, 1e-6)
    prior = weight * ratio * (eps_hat - eps)
    gradient = jax.grad(lambda x: jnp.sum(cost(x)))(x) + prior
    update, state = optimizer.update(gradient, state, x)
    return (x + update, state), None

  noisy = levels.take(slice(None, -1))
  keys, x = split_key(key, len(noisy.t)), as_float(x)
  (x, _), _ = jax.lax.scan(body, (x, optimizer.init(x)), (keys, noisy))
  return x
