"""Flow maps: the probability-flow ODE solved from one level to another.

A `FlowMap` takes x_t at level t to x_s at the cleaner level s. Few-step models
learn forms of it, with t the schedule's time (0 clean, 1 noise):

  average velocity      u(x_t, t, s) = (x_t - x_s) / (t - s)   MeanFlow
  shortcut              u(x_t, t, t - d)                       shortcut models
  consistency function  f(x_t, t) = x_s at the clean end       consistency

and u(x_t, t, t) is the velocity dx_t/dt (Geng et al. 2025; Frans et al. 2024;
Song et al. 2023). Only `make_flow_map` depends on how a network was trained.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.arguments import check_same_shape, expand_to
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel, check_one_level
from diffusion_jax.core.parametrization import edm_norm
from diffusion_jax.declared import MapKind
from diffusion_jax.ranges import NonNegative

Array = jax.Array


@needed('a flow map, such as make_flow_map(network, params, kind=...)')
class FlowMap(Protocol):
  """A map along the probability-flow ODE, such as `make_flow_map` returns."""

  def __call__(self, xt: Array, level_t: NoiseLevel, level_s: NoiseLevel, /) -> Array:
    """Takes x_t [B, ...] to x_s, s cleaner than t; levels [] or [B]."""
    ...


def average_velocity(xt: Array, xs: Array, level_t: NoiseLevel, level_s: NoiseLevel) -> Array:
  """Computes u = (x_t - x_s) / (t - s), [B, ...]; s < t (MeanFlow, Eq. 3)."""
  check_same_shape(xt=xt, xs=xs)
  return (xt - xs) / expand_to(level_t.t - level_s.t, xt)


def from_average_velocity(xt: Array, u: Array, level_t: NoiseLevel, level_s: NoiseLevel) -> Array:
  """Computes x_s = x_t - (t - s) u, [B, ...] (MeanFlow, Eq. 12)."""
  check_same_shape(xt=xt, u=u)
  return xt - expand_to(level_t.t - level_s.t, xt) * u


def consistency_function(
  output: Array, xt: Array, level: NoiseLevel, sigma_data: float = 0.5, sigma_min: float = 0.002
) -> Array:
  """Computes f = c_skip x + c_out F, [B, ...] (Song et al. 2023, appendix C).

  With x = x_t / alpha, and sigma / alpha for the paper's sigma, it works for
  any schedule, also if alpha_t = 0. f is exactly x at sigma / alpha =
  sigma_min, and an extrapolation below it. output: F of a network with the
  input x_t / edm_norm, [B, ...]; xt: [B, ...]; level: [] or [B]; sigma_data:
  the standard deviation of the data; sigma_min: sigma / alpha at the clean end.
  """
  check_same_shape(output=output, xt=xt)
  level = level.expand_to(xt)
  beyond = level.sigma - sigma_min * level.alpha
  scaled = sigma_data**2 * level.alpha
  skip = scaled / (beyond**2 + (sigma_data * level.alpha) ** 2)
  out = sigma_data * beyond / edm_norm(level, sigma_data)
  return skip * xt + out * output


def trigflow_level(level: NoiseLevel, sigma_data: float = 0.5) -> NoiseLevel:
  """Returns TrigFlow's level with the same SNR (Lu & Song 2025, section 3).

  x = cos(a) x_0 + sin(a) z with z ~ N(0, sigma_data^2 I) and tan(a) = sigma /
  (sigma_data alpha); t = 2 a / pi. `trigflow_input` is x at this level.
  """
  return level_of_angle(jnp.arctan2(level.sigma, sigma_data * level.alpha), sigma_data)


def level_of_angle(angle: Array, sigma_data: float = 0.5) -> NoiseLevel:
  """Returns TrigFlow's level at an angle in [0, pi / 2], [] or [B]."""
  t = 2.0 / jnp.pi * angle
  return NoiseLevel(t, jnp.cos(angle), sigma_data * jnp.sin(angle))


def trigflow_input(xt: Array, level: NoiseLevel, sigma_data: float = 0.5) -> Array:
  """Scales x_t to the standard deviation of the data, for `trigflow_level`."""
  return sigma_data * xt / edm_norm(level.expand_to(xt), sigma_data)


def trigflow_function(output: Array, x: Array, angle: Array, sigma_data: float = 0.5) -> Array:
  """Computes f = cos(a) x - sin(a) sigma_data F (Lu & Song 2025, section 3).

  output: F(x / sigma_data, a), [B, ...]; angle: [] or [B]. At a = 0 f is
  exactly x. F is minus the output of a network with the parametrization 'edm'.
  """
  check_same_shape(output=output, x=x)
  angle = expand_to(angle, x)
  return jnp.cos(angle) * x - jnp.sin(angle) * sigma_data * output


def velocity_output(
  network: Network,
  params: Params,
  xt: Array,
  level_t: NoiseLevel,
  s: Array,
  cond: dict | None = None,
  key: Key | None = None,
) -> Array:
  """Evaluates a network at (x_t, t, s) and returns u, [B, ...].

  The network gets cond['elapsed'] [B] = time_scale (t - s). s: the time of the
  cleaner level, [] or [B]. For the others see `Network.output`.
  """
  check_one_level(level_t, 'a flow map')
  elapsed = network.time_scale * (level_t.t - s)
  cond = (cond or {}) | {'elapsed': jnp.broadcast_to(elapsed, xt.shape[:1])}
  network = dataclasses.replace(network, parametrization='flow')
  return network.output(params, xt, level_t, cond, key)


def consistency_output(
  network: Network,
  params: Params,
  xt: Array,
  level: NoiseLevel,
  cond: dict | None = None,
  key: Key | None = None,
  *,
  kind: MapKind = 'consistency',
  sigma_min: float = 0.002,
) -> Array:
  """Evaluates a network at x_t and returns f(x_t, t), [B, ...].

  kind: 'consistency' or 'trigflow'. For the others see `Network.output`.
  """
  sigma_data = network.sigma_data
  if kind == 'trigflow':
    xt = trigflow_input(xt, level, sigma_data)
    level = trigflow_level(level, sigma_data)
  # 'edm' divides the input by its standard deviation.
  network = dataclasses.replace(network, parametrization='edm')
  output = network.output(params, xt, level, cond, key)
  if kind == 'trigflow':
    return trigflow_function(output, xt, 0.5 * jnp.pi * level.t, sigma_data)
  return consistency_function(output, xt, level, sigma_data, sigma_min)


@checked
def make_flow_map(
  network: Network,
  params: Params,
  cond: dict | None = None,
  *,
  kind: MapKind,
  sigma_min: NonNegative = 0.002,
) -> FlowMap:
  """Makes a `FlowMap` from a network.

  'average_velocity' works for any s < t. 'consistency' and 'trigflow' only map
  to the clean end and return NaN for sigma_s / alpha_s > sigma_min: sample with
  `stochastic=True` to use them for several steps.

  Args:
    network: A network whose parametrization is not used. For 'average_velocity'
      it gets cond['elapsed'] [B] = time_scale (t - s); for 'trigflow' its noise
      input gets `trigflow_level`.
    params: The first argument of the network.
    cond: Dict of arrays [B, ...], with 'guidance_scale' [B] if the network was
      trained with it.
    kind: A `MapKind`; ValueError for others.
    sigma_min: See `consistency_function`.
  """

  def by_velocity(xt, level_t, level_s):
    u = velocity_output(network, params, xt, level_t, level_s.t, cond)
    return from_average_velocity(xt, u, level_t, level_s)

  def to_the_end(xt, level_t, level_s):
    x0 = consistency_output(network, params, xt, level_t, cond, kind=kind, sigma_min=sigma_min)
    clean = level_s.sigma <= 1.001 * sigma_min * level_s.alpha
    return jnp.where(expand_to(clean, xt), x0, jnp.nan)

  return by_velocity if kind == 'average_velocity' else to_the_end
