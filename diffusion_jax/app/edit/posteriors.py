"""How --mode=edit draws from p(x_0 | y): methods; the edit `steer` by a reward.

Each method makes images of a `Plan` from a measurement, by functions of the library.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import STEPS, Batch, Edited, Method
from diffusion_jax.app.edit.pictures import Edit, Made, Shown
from diffusion_jax.app.kinds.sampling import few_particles
from diffusion_jax.core.keys import clone_key, draw_normal, draw_signs, fold_each, split_key
from diffusion_jax.core.measurements import LogLikelihood
from diffusion_jax.declared import declares
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.restoration import MOST
from diffusion_jax.ranges import Finite, NonNegative, Positive, Probability, Several, Size
from diffusion_jax.sampling.grids import last_noisy_level

Array = jax.Array


@declares(what='`reconstruction_guided(denoise, known, mask)`', exact_for='Gaussian data')
def reconstruction(scale: NonNegative = 1.0, iterations: Size = 4) -> Method:
  """Guides by what is known, `scale` times as strongly (1 is Bayes' rule).

  iterations: of conjugate gradients, each a gradient through the network.
  """

  def draw(batch, known):
    return batch.sampled(
      lambda denoise: dj.observation_guided(
        denoise, known.forward, known.y, scale, iterations, known.std
      )
    )

  return Method(draw, needs_linear=True)


@declares(
  what='`observation_guided(denoise, observe, y, std=s)` (Rozet et al. 2024)',
  exact_for='Gaussian data',
)
def moment(iterations: Size = 4) -> Method:
  """Guides by the covariance of the denoiser (Rozet et al. 2024).

  iterations: of conjugate gradients, each a gradient through the network.
  """
  return reconstruction(1.0, iterations)


@declares(
  what='`pseudoinverse_guided(denoise, measurement)` (Song et al. 2023)',
  exact_for='white Gaussian data',
)
def pseudoinverse(iterations: Size = 100) -> Method:
  """Guides as if the data were white (PiGDM, Song et al. 2023).

  A measurement that is not linear gets its variance of x_0 added instead.
  iterations: of conjugate gradients, without the network.
  """

  def draw(batch, known):
    twist = _twist(known, iterations)
    return batch.sampled(lambda denoise: dj.twist_guided(denoise, twist))

  return Method(draw, takes_white=True)


@declares(
  what='`likelihood_guided(sampler, distance, step_size)` (Chung et al. 2023)', exact_for='nothing'
)
def dps(step_size: NonNegative = 1.0) -> Method:
  """Descends along the residual's norm (DPS, Chung et al. 2023), as a baseline.

  step_size: zeta, for the run's number of steps.
  """

  def draw(batch, known):
    sampler = dj.likelihood_guided(batch.plan.sampler, known.distance, step_size)
    return batch.sampled(sampler=sampler)

  return Method(draw, changes_x=True)


@declares(
  what='`proximal(denoise, measurement, weight=1)`, `renoised(share)` (DiffPIR, Zhu et al. 2023)'
)
def proximal(weight: Positive = 1.0, share: Probability = 0.3, iterations: Size = 100) -> Method:
  """Moves x_0 towards y without gradients (DiffPIR, Zhu et al. 2023).

  Args:
    weight: of the distance from the denoiser's x_0
    share: of new noise in a step
    iterations: of conjugate gradients, without the network
  """

  def draw(batch, known):
    return batch.sampled(
      lambda denoise: dj.proximal(denoise, known, weight, iterations), sampler=dj.renoised(share)
    )

  return Method(draw, needs_linear=True, unread=STEPS)


@declares(what='`decoupled(draw)` (DAPS, Zhang et al. 2025)', exact_for='white Gaussian data')
def decoupled(
  step_size: Positive | None = None, langevin_steps: Size = 100, iterations: Size = 100
) -> Method:
  """Draws x_0 given y at each level, and adds new noise (DAPS, Zhang et al.).

  Args:
    step_size: of Langevin steps; None: exact draws, for linear operators
    langevin_steps: their number
    iterations: of conjugate gradients for exact draws
  """

  def draw(batch, known):
    draw_x0 = _inner_draw(known, step_size, langevin_steps, iterations)
    return batch.sampled(sampler=dj.decoupled(draw_x0))

  exact = step_size is None
  return Method(draw, needs_linear=exact, takes_white=True, unread=STEPS)


@declares(
  what='`split_gibbs(key, denoise, schedule, draw, widths, x)` (PnP-DM, Wu et al. 2024)',
  exact_for='many rounds, widths → 0',
)
def gibbs(
  step_size: Positive | None = None,
  langevin_steps: Size = 100,
  iterations: Size = 100,
  rounds: Size = 40,
  highest: Positive = 3.0,
  lowest: Positive | None = None,
  inner_steps: Size = 20,
) -> Method:
  """Takes turns between y and the model (split Gibbs, PnP-DM).

  Args:
    step_size: of Langevin steps; None: exact draws, for linear operators
    langevin_steps: their number
    iterations: of conjugate gradients for exact draws
    rounds: their number; half of them with falling widths
    highest: first width
    lowest: last width; None: the noise's std in units of x, or the schedule's
      lowest
    inner_steps: of the sampler in a round
  """

  def draw(batch, known):
    plan = batch.plan
    key, start_key = split_key(batch.keys, 2)
    start = plan.levels.take(0)
    x = plan.prior_sample(start_key, start)
    x /= jnp.hypot(start.alpha, start.sigma)
    end = last_noisy_level(plan.schedule)
    least = lowest or known.width or known.std
    last = jnp.maximum(least, end.sigma / end.alpha)
    widths = widths_of(rounds, jnp.maximum(highest, last), last)
    denoise = plan.step_function(batch.cond)
    draw_x0 = _inner_draw(known, step_size, langevin_steps, iterations)
    x = dj.split_gibbs(key, denoise, plan.schedule, draw_x0, widths, x, num_steps=inner_steps)
    return {'x': x}

  return Method(draw, needs_linear=step_size is None, unread=(*STEPS, 'grid'))


def widths_of(rounds: int, highest: Array | float, lowest: Array | float) -> Array:
  """Returns the widths of split Gibbs, [rounds], half of them falling."""
  falling = math.ceil(rounds / 2)
  widths = jnp.geomspace(highest, lowest, falling)
  return jnp.pad(widths, (0, rounds - falling), mode='edge')


@declares(
  what='`steered(log_likelihood, twist)` (TDS, Wu et al. 2023; FK steering, Singhal et al. 2025)',
  exact_for='many particles',
)
def steered(particles: Several = 16, gradient: bool = True, iterations: Size = 100) -> Method:
  """Draws one of several weighted particles (TDS, Wu et al. 2023).

  Args:
    particles: of each image
    gradient: whether the twist's gradient moves them; False is FK steering
    iterations: of conjugate gradients, without the network
  """

  def draw(batch, known):
    twist = _twist(known, iterations)
    return steer(batch, known.log_prob, twist, particles, gradient)

  return Method(draw, in_latents=True, takes_white=True, unread=STEPS)


@declares(
  what='`red_diff(key, denoise, levels, cost, x, optimizer)`: an estimate (Mardani et al. 2024)',
  exact_for='nothing',
)
def red_diff(rate: Positive = 0.1, weight: NonNegative = 0.25) -> Method:
  """Finds one estimate by optimization (RED-diff, Mardani et al. 2024).

  Args:
    rate: learning rate of Adam
    weight: of the network
  """

  def draw(batch, known):
    def half_square(x):
      return 0.5 * known.distance(x) ** 2

    plan, adam = batch.plan, optax.adam(rate, b1=0.9, b2=0.99)
    denoise = plan.step_function(batch.cond)
    x = jnp.zeros_like(plan.prior_sample(batch.keys, plan.levels.take(0)))
    x = dj.red_diff(batch.keys, denoise, plan.levels, half_square, x, adam, weight=weight)
    return {'x': x}

  note = 'note: red_diff finds estimates, which vary less than samples do\n'
  return Method(draw, unread=STEPS, note=note)


def whiteness(batch: Batch, x0: Array) -> Array:
  """Estimates tr Cov[x_0 | x_t] / (D r^2) where sigma = alpha, [B].

  It is 1 for white data of unit variance, for which methods with `takes_white`
  are exact, and below 1 if pixels predict each other. The Jacobian of the
  denoiser is multiplied by random signs (Hutchinson 1990), at x0 [B, ...] with
  new noise.
  """
  index = jnp.full(len(x0), 2**31, jnp.uint32)  # above all others
  keys = split_key(fold_each(clone_key(batch.keys), index), 2)
  level = batch.plan.schedule.from_logsnr(jnp.zeros(()))
  denoise = batch.plan.step_function(batch.cond, clip=False)
  xt = dj.q_sample(x0, draw_normal(keys[0], x0), level)
  signs = draw_signs(keys[1], x0)
  _, product = jax.jvp(lambda x: denoise(x, level).x0, (xt,), (signs,))
  # Cov = sigma^2 / alpha J, and r^2 = sigma^2 / (alpha^2 + sigma^2).
  scale = (level.alpha**2 + level.sigma**2) / level.alpha
  return scale * jnp.mean(signs * product, axis=tuple(range(1, x0.ndim)))


def steer(
  batch: Batch,
  log_likelihood: LogLikelihood,
  twist: dj.Twist | None,
  count: int,
  gradient: bool = True,
) -> dict[str, Array]:
  """Draws one of `count` particles; with log_evidence and lowest_ess, [B]."""
  plan = batch.plan
  prior_keys, keys, pick_keys = split_key(batch.keys, 3)
  each = split_key(prior_keys, count).T.reshape(-1)
  x = plan.prior_sample(each, plan.levels.take(0))
  x = x.reshape(len(keys), count, *x.shape[1:])
  cond = {n: jnp.repeat(v, count, axis=0) for n, v in batch.cond.items()}
  sampler = dj.steered(log_likelihood, twist, use_gradient=gradient)
  x, state = dj.sample_with_state(keys, plan.step_function(cond), sampler, plan.levels, x)
  return {
    'x': dj.pick(pick_keys, x, state.log_weights),
    'log_evidence': state.log_evidence,
    'lowest_ess': state.lowest_ess,
  }


def _inner_draw(known, step_size, langevin_steps, iterations):
  # Returns the draw of x_0 from p(y | x_0) and a normal distribution.
  if step_size is None:
    return dj.gaussian_draw(known, iterations)
  return dj.langevin_draw(known.log_prob, step_size, langevin_steps)


def _twist(known, iterations):
  if known.is_linear:
    return dj.pseudoinverse_twist(known, iterations)
  return dj.spread_twist(known)


def brightness(x0: jax.Array, strength: Finite = 10.0) -> jax.Array:
  """Computes the mean of all pixels, times `strength`, [B]."""
  return strength * jnp.mean(x0, axis=tuple(range(1, x0.ndim)))


@dataclass(frozen=True, kw_only=True)
class Steer(Edit):
  """Draws from the run's images times exp(reward), by weighted particles.

  Args:
    reward: x_0 -> numbers, brightness or a function of yours, module:name
    particles: of each result, which is one of them
    gradient: whether the reward's gradient moves them
  """

  reward: Node | None = None
  particles: Several = 16
  gradient: bool = True

  part: ClassVar = 'reward'
  unread: ClassVar = STEPS

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    node, values = self.reward, model.facts.x
    assert node is not None  # else it was refused

    def reward(x):
      x0 = batch.decode(x)
      if not values.levels:  # real numbers are in the user's units
        a, b = values.affine
        x0 = a + b * x0
      rewards = node.make({'x0': x0})
      if jnp.shape(rewards) != x.shape[:1]:
        raise UserError(
          f'config.edit.reward={node.name}: its result has the shape '
          f'{list(jnp.shape(rewards))}, [{len(x)}] is needed, one for each image'
        )
      return rewards

    drawn = steer(batch, reward, None, self.particles, self.gradient)
    return drawn | {'reward': reward(drawn['x'])}

  def show(self, model: Edited, made: Made) -> Shown:
    shown, numbers = super().show(model, made), made.numbers
    means = {n: float(x.mean()) for n, x in numbers.items() if n != 'x'}
    means['lowest_ess'] = float(numbers['lowest_ess'].min())
    shown.said.append(f'{listed(means)}{warning(**means, particles=self.particles)}')
    return shown


def listed(means: Mapping[str, float]) -> str:
  """Returns numbers with their names."""
  return ', '.join(f'{name} {x:.3g}' for name, x in means.items())


def warning(
  residual: float = 1.0, lowest_ess: float = np.inf, particles: int = 0, **_: float
) -> str:
  """Returns what numbers of samples say against them; '' if nothing."""
  few = few_particles(lowest_ess, particles, 'neither the samples nor log_evidence are')
  if few or 1 / MOST <= residual <= MOST:
    return few
  high = (
    'the method has not reached y: try edit.posterior=decoupled, more '
    'posterior.iterations or sampling.num_steps, then check noise and operator'
  )
  return '. The residual is |y - operator(x)| / noise, about 1 for a sample: ' + (
    high if residual > 1.0 else 'noise is too large'
  )
