"""How --mode=edit draws from p(x_0 | y): methods with their settings.

Each makes images of a `Plan` from a measurement, by functions of the library.
"""

import abc
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

import diffusion_jax as dj
from diffusion_jax.app.edits.methods import STEPS, refuse_unipc
from diffusion_jax.app.model import Model, Plan
from diffusion_jax.core.keys import (
  clone_key,
  draw_normal,
  draw_signs,
  fold_each,
  split_key,
)
from diffusion_jax.core.measurements import LogLikelihood
from diffusion_jax.ranges import NonNegative, Positive, Probability, Size
from diffusion_jax.sampling.splitting import InnerDraw

Array = jax.Array


class Given(NamedTuple):
  """A batch of what is known.

  keys: [B]; cond: of B images; is_linear: whether the measurement is.
  """

  plan: Plan
  keys: Array
  cond: dict
  measurement: dj.Measurement
  is_linear: bool


@dataclass(frozen=True)
class Method(abc.ABC):
  """A way to draw from p(x_0 | y)."""

  in_latents: ClassVar = False  # It can be used with decoded latents.
  unread: ClassVar[tuple[str, ...]] = ()  # Fields of sampling.
  needs_linear: ClassVar = False  # The measurement must be linear.
  takes_white: ClassVar = False  # It takes Cov[x_0 | x_t] for r^2 I.
  note: ClassVar = ''

  def check(self, model: Model) -> None:
    """Raises UserError if the method cannot use the run."""
    return

  @abc.abstractmethod
  def draw(self, given: Given) -> dict[str, Array]:
    """Returns x [B, ...], and what else is known of each image, [B]."""


@dataclass(frozen=True)
class Moment(Method):
  """Guides by the covariance of the denoiser (Rozet et al. 2024).

  iterations: of conjugate gradients, each a gradient through the network.
  """

  iterations: Size = 4

  needs_linear: ClassVar = True

  def draw(self, given: Given) -> dict[str, Array]:
    m = given.measurement

    def guided(denoise):
      return dj.observation_guided(
        denoise, m.forward, m.y, num_iterations=self.iterations, std=m.std
      )

    return _sampled(given, after_guidance=guided)


@dataclass(frozen=True)
class Pseudoinverse(Method):
  """Guides as if the data were white (PiGDM, Song et al. 2023).

  A measurement that is not linear gets its variance of x_0 added instead.
  iterations: of conjugate gradients, without the network.
  """

  iterations: Size = 100

  takes_white: ClassVar = True

  def draw(self, given: Given) -> dict[str, Array]:
    twist = _twist(given, self.iterations)
    return _sampled(
      given, after_guidance=lambda denoise: dj.twist_guided(denoise, twist)
    )


@dataclass(frozen=True)
class Dps(Method):
  """Descends along the residual's norm (DPS, Chung et al. 2023), as a baseline.

  step_size: zeta, for the run's number of steps.
  """

  step_size: NonNegative = 1.0

  def check(self, model: Model) -> None:
    refuse_unipc(model, 'posterior=dps')

  def draw(self, given: Given) -> dict[str, Array]:
    distance = given.measurement.distance

    def guided(sampler, levels):
      return dj.likelihood_guided(sampler, distance, self.step_size), levels

    return _sampled(given, wrap=guided)


@dataclass(frozen=True)
class Proximal(Method):
  """Moves x_0 towards y without gradients (DiffPIR, Zhu et al. 2023).

  Args:
    weight: of the distance from the denoiser's x_0
    share: of new noise in a step
    iterations: of conjugate gradients, without the network
  """

  weight: Positive = 1.0
  share: Probability = 0.3
  iterations: Size = 100

  needs_linear: ClassVar = True
  unread: ClassVar = STEPS

  def draw(self, given: Given) -> dict[str, Array]:

    def moved(denoise):
      return dj.proximal(
        denoise, given.measurement, self.weight, self.iterations
      )

    def own_step(sampler, levels):
      return dj.renoised(self.share), levels

    return _sampled(given, wrap=own_step, after_guidance=moved)


@dataclass(frozen=True)
class Inner(Method):
  """Holds how x_0 is drawn given y: exactly, or by Langevin steps.

  Args:
    step_size: of Langevin steps; None: exact draws, for linear operators
    langevin_steps: their number
    iterations: of conjugate gradients for exact draws
  """

  step_size: Positive | None = None
  langevin_steps: Size = 100
  iterations: Size = 100

  @property
  def needs_linear(self) -> bool:
    return self.step_size is None

  def inner_draw(self, measurement: dj.Measurement) -> InnerDraw:
    """Returns the draw of x_0 from p(y | x_0) and a normal distribution."""
    if self.step_size is None:
      return dj.gaussian_draw(measurement, self.iterations)
    return dj.langevin_draw(
      measurement.log_prob, self.step_size, self.langevin_steps
    )


@dataclass(frozen=True)
class Decoupled(Inner):
  """Draws x_0 given y at each level, and adds new noise (DAPS, Zhang et al.).

  It has the fields of `Inner`.
  """

  unread: ClassVar = STEPS
  takes_white: ClassVar = True

  def draw(self, given: Given) -> dict[str, Array]:
    own_step = dj.decoupled(self.inner_draw(given.measurement))
    return _sampled(given, wrap=lambda sampler, levels: (own_step, levels))


@dataclass(frozen=True)
class Gibbs(Inner):
  """Takes turns between y and the model (split Gibbs, PnP-DM).

  It has the fields of `Inner` too.

  Args:
    rounds: their number; half of them with falling widths
    highest: first width
    lowest: last width; None: std of the noise, or the schedule's lowest
    inner_steps: of the sampler in a round
  """

  rounds: Size = 40
  highest: Positive = 3.0
  lowest: Positive | None = None
  inner_steps: Size = 20

  unread: ClassVar = *STEPS, 'num_steps', 'spacing', 'respacing'

  def draw(self, given: Given) -> dict[str, Array]:
    plan, m = given.plan, given.measurement
    key, start_key = split_key(given.keys, 2)
    x = plan.prior_sample(start_key, plan.levels.take(0))
    x /= jnp.hypot(*plan.levels.take(0)[1:])
    with jax.ensure_compile_time_eval():
      end = dj.level_grid(plan.schedule, 2, 'karras').take(1)
      least = float(end.sigma / end.alpha)
    lowest = max(self.lowest or float(m.std), least)
    falling = math.ceil(self.rounds / 2)
    widths = jnp.concatenate(
      [
        jnp.geomspace(max(self.highest, lowest), lowest, falling),
        jnp.full(self.rounds - falling, lowest),
      ]
    )
    x = dj.split_gibbs(
      key,
      plan.step_function(given.cond),
      plan.schedule,
      self.inner_draw(m),
      widths,
      x,
      num_steps=self.inner_steps,
    )
    return {'x': x}


@dataclass(frozen=True)
class Steered(Method):
  """Draws one of several weighted particles (TDS, Wu et al. 2023).

  Args:
    particles: of each image
    gradient: whether the twist's gradient moves them; False is FK steering
    iterations: of conjugate gradients, without the network
  """

  particles: Size = 16
  gradient: bool = True
  iterations: Size = 100

  in_latents: ClassVar = True
  unread: ClassVar = STEPS
  takes_white: ClassVar = True

  def draw(self, given: Given) -> dict[str, Array]:
    twist = _twist(given, self.iterations)
    log_prob = given.measurement.log_prob
    return steer(*given[:3], log_prob, twist, self.particles, self.gradient)


@dataclass(frozen=True)
class RedDiff(Method):
  """Finds one estimate by optimization (RED-diff, Mardani et al. 2024).

  Args:
    rate: learning rate of Adam
    weight: of the network
  """

  rate: Positive = 0.1
  weight: NonNegative = 0.25

  unread: ClassVar = STEPS
  note: ClassVar = (
    'note: red_diff finds estimates, which vary less than samples do\n'
  )

  def draw(self, given: Given) -> dict[str, Array]:
    plan, m = given.plan, given.measurement
    x = plan.prior_sample(given.keys, plan.levels.take(0))
    estimate = dj.red_diff(
      given.keys,
      plan.step_function(given.cond),
      plan.levels,
      lambda x: 0.5 * m.distance(x) ** 2,
      jnp.zeros_like(x),
      optax.adam(self.rate, b1=0.9, b2=0.99),
      self.weight,
    )
    return {'x': estimate}


def whiteness(given: Given, x0: Array) -> Array:
  """Estimates tr Cov[x_0 | x_t] / (D r^2) where sigma = alpha, [B].

  It is 1 for white data of unit variance, for which methods with `takes_white`
  are exact, and below 1 if pixels predict each other. The Jacobian of the
  denoiser is multiplied by random signs (Hutchinson 1990), at x0 [B, ...] with
  new noise.
  """
  index = jnp.full(len(x0), 2**31, jnp.uint32)  # above all others
  keys = split_key(fold_each(clone_key(given.keys), index), 2)
  level = given.plan.schedule.from_logsnr(jnp.zeros(()))
  denoise = given.plan.step_function(given.cond, clip=False)
  xt = dj.q_sample(x0, draw_normal(keys[0], x0), level)
  signs = draw_signs(keys[1], x0)
  _, product = jax.jvp(lambda x: denoise(x, level).x0, (xt,), (signs,))
  # Cov = sigma^2 / alpha J, and r^2 = sigma^2 / (alpha^2 + sigma^2).
  scale = (level.alpha**2 + level.sigma**2) / level.alpha
  return scale * jnp.mean(signs * product, axis=tuple(range(1, x0.ndim)))


def steer(
  plan: Plan,
  keys: Array,
  cond: dict,
  log_likelihood: LogLikelihood,
  twist: dj.Twist | None,
  count: int,
  gradient: bool = True,
) -> dict[str, Array]:
  """Draws one of `count` particles; with log_evidence and lowest_ess, [B]."""
  prior_keys, keys, pick_keys = split_key(keys, 3)
  each = split_key(prior_keys, count).T.reshape(-1)
  x = plan.prior_sample(each, plan.levels.take(0))
  x = x.reshape(len(keys), count, *x.shape[1:])
  cond = {n: jnp.repeat(v, count, axis=0) for n, v in cond.items()}
  sampler = dj.steered(log_likelihood, twist, use_gradient=gradient)
  x, state = dj.sample(
    keys, plan.step_function(cond), sampler, plan.levels, x, return_state=True
  )
  return {
    'x': dj.pick(pick_keys, x, state.log_weights),
    'log_evidence': state.log_evidence,
    'lowest_ess': state.lowest_ess,
  }


def _sampled(given, **options):
  return {'x': given.plan.from_noise(given.keys, given.cond, **options)}


def _twist(given, iterations):
  if given.is_linear:
    return dj.pseudoinverse_twist(given.measurement, iterations)
  return dj.spread_twist(given.measurement)
