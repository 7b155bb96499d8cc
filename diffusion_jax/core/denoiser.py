"""The interface between networks and the process.

Samplers, bounds and guidance take a `Denoiser`: (x_t, level) -> Prediction. A
network is any function `network_fn(params, x, noise, cond, *, key=None)`; a
`Network` makes a denoiser of it. Only a `Network` has a network's
parametrization, its input for the noise level, the scaling of x and its
conditions.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import (
  as_float,
  check_interval,
  expand_to,
  kind_of,
)
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_one_level, round_near_step
from diffusion_jax.core.losses import Weight, denoising_loss
from diffusion_jax.core.parametrization import Kind, edm_norm, to_x0
from diffusion_jax.meshes import on_auto_axes, where_it_can
from diffusion_jax.ranges import Count, Finite, Positive, Probability, Size

Array = jax.Array
Augment = Callable[[Array, Array], tuple[Array, Array]]
Condition = Callable[[Array, dict], dict]


@needed('a network')
class NetworkFn(Protocol):
  """A network as a function of its parameters."""

  def __call__(
    self, params: Params, x: Array, noise: Array, cond: dict | None, /, *, key: Key | None = None
  ) -> Array:
    """Returns the raw output, [B, ...].

    x: [B, ...]; noise: [B], from a `NoiseInput`; cond: dict of arrays
    [B, ...]; key: the key of dropout, which is off without one. For `Network.with_hidden` it
    takes `at` too, and then returns (output, hidden).
    """
    ...


class NoiseInput(Protocol):
  """The function of the noise level that a network takes as its input."""

  def __call__(self, level: NoiseLevel, /) -> Array:
    """Returns one number for each level, [] or [B]."""
    ...


class Prediction(NamedTuple):
  """A denoiser's estimate of the clean image.

  x0 [B, ...] estimates E[x_0 | x_t]. var_frac [B, ...] is the exponent v of
  IDDPM Eq. 15 if the network learns the reverse variance.
  """

  x0: Array
  var_frac: Array | None = None


@needed('a denoiser, such as network.denoiser(params, cond)')
class Denoiser(Protocol):
  """An estimate of the clean image, such as `Network.denoiser` returns."""

  def __call__(self, xt: Array, level: NoiseLevel, /) -> Prediction:
    """Estimates x_0 from x_t [B, ...] at a level [] or [B]."""
    ...


def predict(denoise: Denoiser, xt: Array, level: NoiseLevel) -> Prediction:
  """Returns denoise(xt, level); TypeError if it is not a `Prediction`.

  Without the check an array would be unpacked along its batch axis. x_0 is at
  least float32: squares of half precision would overflow.
  """
  prediction = denoise(xt, level)
  if not isinstance(prediction, Prediction):
    raise TypeError(f'a denoiser returns dj.Prediction(x0), not {kind_of(prediction)}')
  return prediction._replace(x0=as_float(prediction.x0))


@checked
def logsnr_input(level: NoiseLevel) -> Array:
  """Returns log(alpha^2 / sigma^2), the level's logsnr, [] or [B]."""
  return level.logsnr


@checked
def edm_input(level: NoiseLevel) -> Array:
  """Returns log(sigma / alpha) / 4, EDM's c_noise (Table 1), [] or [B]."""
  return -level.logsnr / 8.0


@checked
def log_sigma_input(level: NoiseLevel) -> Array:
  """Returns log(sigma / alpha), Song et al.'s VE label, [] or [B]."""
  return -0.5 * level.logsnr


@checked
def time_input(scale: Positive = 1000.0) -> NoiseInput:
  """Makes the input scale * t, finite also where alpha = 0 or sigma = 0.

  scale=999 is the label of Song et al.'s continuous VP networks.
  """
  return lambda level: scale * level.t


@checked
def step_input(schedule_steps: Size, scale: Finite = 1.0) -> NoiseInput:
  """Makes the input max(T t - 1, 0) * scale, 0..T-1 at DDPM's steps 1..T.

  T is schedule_steps. At the steps it is exactly an integer, as in the
  published networks.
  """

  def noise(level):
    step = round_near_step(level.t * schedule_steps, schedule_steps)
    return scale * jnp.maximum(step - 1.0, 0.0)

  return noise


def rescaled_step_input(schedule_steps: int) -> NoiseInput:
  """Makes `step_input` rescaled to 0..999, improved-diffusion's option."""
  return step_input(schedule_steps, 1000 / schedule_steps)


def variance_fraction(output: Array) -> Array:
  """Maps a network's output for the variance, about -1..1, to var_frac 0..1."""
  return 0.5 * (output + 1.0)


@checked
def at_training_levels(denoise: Denoiser, schedule: Schedule) -> Denoiser:
  """Makes a denoiser trained on `schedule` usable at all levels.

  It evaluates `denoise` at the level of `schedule` with the same SNR and at x_t
  rescaled to that level, which does not change E[x_0 | x_t]. Beyond an end of
  `schedule`, clean data and pure noise included, it uses the last level and
  scales x_t by the ratio of the alphas where alpha > sigma, else by the ratio
  of the sigmas. Networks of T steps get fractional steps.
  """

  def denoise_at_equal_snr(xt, level):
    level = jax.tree.map(jnp.asarray, level)
    no_signal, no_noise = level.alpha == 0.0, level.sigma == 0.0
    # 1 replaces 0, so that no branch computes 0 / 0: its gradient would be NaN
    # even where the branch is not taken.
    safe = level._replace(
      alpha=jnp.where(no_signal, 1.0, level.alpha), sigma=jnp.where(no_noise, 1.0, level.sigma)
    )
    logsnr = jnp.where(no_signal, schedule(1.0).logsnr, safe.logsnr)
    logsnr = jnp.where(no_noise, schedule(0.0).logsnr, logsnr)
    trained = schedule.from_logsnr(logsnr)
    new, old = trained.expand_to(xt), safe.expand_to(xt)
    mostly_signal = expand_to(level.alpha > level.sigma, xt)
    ratio = jnp.where(mostly_signal, new.alpha / old.alpha, new.sigma / old.sigma)
    return denoise(ratio * xt, trained)

  return denoise_at_equal_snr


@checked
def clip_denoised(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
  """Clips the x_0 of a denoiser to [low, high] (Ho et al.'s clip_denoised).

  ValueError unless low <= high.
  """
  check_interval('clipping needs an interval', low=low, high=high)

  def clipped(xt, level):
    prediction = predict(denoise, xt, level)
    return prediction._replace(x0=jnp.clip(prediction.x0, low, high))

  return clipped


@checked
def dynamic_threshold(
  denoise: Denoiser, quantile: Probability = 0.995, max_value: Positive | None = None
) -> Denoiser:
  """Replaces x_0 by clip(x_0, -s, s) / s, s a quantile of each example's |x_0|.

  Imagen (Saharia et al. 2022), section 2.3. s is at least 1, so images within
  [-1, 1] do not change, and at most max_value, also if that is below 1 (as
  diffusers' sample_max_value). ValueError for a quantile outside [0, 1] and for
  max_value <= 0.
  """

  def thresholded(xt, level):
    prediction = predict(denoise, xt, level)
    x0 = prediction.x0
    s = _quantile_of_each(jnp.abs(x0), quantile)
    s = expand_to(jnp.clip(s, 1.0, max_value), x0)
    return prediction._replace(x0=jnp.clip(x0, -s, s) / s)

  return thresholded


@on_auto_axes
def _quantile_of_each(x, quantile):
  return jnp.quantile(x.reshape(x.shape[0], -1), quantile, axis=1)


def unconditional(key: Key, batch: dict) -> dict:
  """Returns the cond of an unconditional network, {}."""
  return {}


def finite_logsnr(level: NoiseLevel) -> NoiseLevel:
  """Returns the level with sigma = 1e-4 alpha where it is clean, as what networks see of it."""
  return level._replace(sigma=jnp.where(level.sigma == 0.0, 1e-4 * level.alpha, level.sigma))


@needed('a dj.Network(network_fn, noise_input)')
@checked
@dataclasses.dataclass(frozen=True)
class Network:
  """Holds a network function, what it predicts, and its inputs.

  Args:
    apply: (params, x [B, ...], noise [B], cond, *, key=None) -> [B, ...].
    noise_input: The network's input for a level, such as `step_input(1000)`.
    parametrization: What the network predicts, a kind of `target`.
    sigma_data: The standard deviation of the data, for 'edm'.
    learned_variance: Whether the output has twice the channels; the second half
      maps -1..1 to var_frac 0..1.
    time_scale: The factor of cond['elapsed'], for flow maps.
    condition: Draws cond in training, (key, batch) -> dict of arrays [B, ...].
    augment: Changes the images in training; its labels become cond['augment'].
    self_conditioning: Whether cond['x0'] is the network's own first estimate of
      x_0 with estimate_probability, else zeros (Chen et al. 2022, Alg. 1, who
      draw once for the whole batch).
    level_axes: How many leading axes of x have levels of their own: 1, the examples, or 2,
      their elements (tokens, frames). `apply` gets noise [B], or [B, T].
  """

  apply: NetworkFn
  noise_input: NoiseInput
  _: dataclasses.KW_ONLY
  parametrization: Kind = 'eps'
  sigma_data: Positive = 0.5
  learned_variance: bool = False
  time_scale: Finite = 1.0
  condition: Condition = unconditional
  augment: Augment | None = None
  self_conditioning: bool = False
  estimate_probability: Probability = 0.5
  level_axes: Size = 1

  def check_options(self, objective: str, *usable: str) -> None:
    """Raises ValueError for an option that is set but not in `usable`."""
    options = 'learned_variance', 'augment', 'self_conditioning'
    for name in options:
      if getattr(self, name) and name not in usable:
        raise ValueError(f'the network has {name}, which {objective} cannot use: remove it')

  @checked
  def output(
    self,
    params: Params,
    xt: Array,
    level: NoiseLevel,
    cond: dict | None = None,
    key: Key | None = None,
  ) -> Array:
    """Evaluates the network at x_t [B, ...]; returns its raw output, [B, ...].

    The output gets the precision of xt. For 'edm' the input is divided by its
    standard deviation (c_in). level: [] or [B]; cond: dict of arrays [B, ...],
    such as {'label': [B]}; key: the key of dropout, which is off without one.
    """
    return self._arrays(params, xt, level, cond, key)[0]

  @checked
  def with_hidden(
    self,
    params: Params,
    xt: Array,
    level: NoiseLevel,
    cond: dict | None = None,
    key: Key | None = None,
    *,
    at: Count,
  ) -> tuple[Array, Array]:
    """Returns (`output`, what block `at` of the network computes), as arrays like xt.

    at: counted from 0; ValueError for a block that is not there. Of `DiT` it is tokens
    [B, T, D], of `UNet` a feature map [B, ..., C], of `MLP` [B, D]. Other networks take `at`, as
    `network_fn` calls them, or raise ValueError.
    """
    if 'at' not in inspect.signature(self.apply).parameters:
      raise ValueError('this network has no hidden layers: its function takes no `at`')
    output, hidden = self._arrays(params, xt, level, cond, key, at)
    return output, hidden

  def _arrays(self, params, xt, level, cond, key, at=None):
    # Returns the output, and with `at` what that block computes.
    scale, expanded = 1.0, NoiseLevel.expand_to(level, xt)
    if self.parametrization == 'edm':
      scale = 1.0 / edm_norm(expanded, self.sigma_data)
    noise = self.noise_of(level, xt)
    given: Any = self.evaluate(params, scale * xt, noise, cond, key, at)
    if at is not None and not (isinstance(given, tuple) and len(given) == 2):
      raise TypeError(f'with `at` a network returns (output, hidden), not {kind_of(given)}')
    arrays: tuple[Any, ...] = (given,) if at is None else given
    for array in arrays:
      if not hasattr(array, 'astype'):
        raise TypeError(f'a network returns an array, not {kind_of(array)}')
    return tuple(array.astype(xt.dtype) for array in arrays)

  def noise_of(self, level: NoiseLevel, xt: Array) -> Array:
    """Returns the network's input for the level of x_t, [B], or [B, T] with level_axes=2."""
    check_one_level(level, f'a network with level_axes={self.level_axes}', self.level_axes)
    level = finite_logsnr(level) if self.level_axes > 1 else level
    noise = jnp.asarray(self.noise_input(level))
    noise = noise.reshape(noise.shape + (1,) * (self.level_axes - noise.ndim))
    return jnp.broadcast_to(noise, xt.shape[: self.level_axes])

  def evaluate(
    self,
    params: Params,
    x: Array,
    noise: Array,
    cond: Any,
    key: Any = None,
    at: int | None = None,
  ) -> Any:
    """Calls `apply`; on a mesh of Explicit axes that ask it for shardings, on Auto axes."""
    more = {} if at is None else {'at': at}

    def run(x, params, noise, cond, key):
      return self.apply(params, x, noise, cond, key=key, **more)

    return where_it_can(run)(x, params, noise, cond, key)

  @checked
  def to_x0(self, output: Array, xt: Array, level: NoiseLevel) -> Array:
    """Converts an output without variance to an estimate of x_0."""
    return to_x0(self.parametrization, output, xt, level, self.sigma_data)

  @checked
  def denoiser(self, params: Params, cond: dict | None = None) -> Denoiser:
    """Returns the network's `Denoiser` for a condition; see `output`.

    Its x_0 is 0 where cond['valid'] [B, T] says that an element pads an example.
    """

    def denoise(xt, level):
      output, var_frac = self.output(params, xt, level, cond), None
      if self.learned_variance:
        output, fraction = jnp.split(output, 2, axis=-1)
        var_frac = variance_fraction(fraction)
      x0 = self.to_x0(output, xt, level)
      if valid is not None:
        x0 = jnp.where(expand_to(valid, x0), x0, 0.0)
      return Prediction(x0, var_frac)

    valid = None if cond is None else cond.get('valid')
    return denoise

  @checked
  def denoising_loss(
    self, output: Array, x0: Array, eps: Array, level: NoiseLevel, weight: Weight
  ) -> Array:
    """Computes `denoising_loss` of what the network predicts, [B]."""
    kind, sigma_data = self.parametrization, self.sigma_data
    return denoising_loss(kind, output, x0, eps, level, weight, sigma_data=sigma_data)
