"""A network and what it predicts: where networks meet the process.

Only a `Network` knows how a network was trained: its parametrization, its input
for the noise level, the scaling of x and its conditions.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.concrete import kind_of
from diffusion_jax.core.denoiser import (
  Denoiser,
  NetworkFn,
  NoiseInput,
  Prediction,
  variance_fraction,
)
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.core.losses import Weight, denoising_loss
from diffusion_jax.core.parametrization import Kind, edm_norm, to_x0
from diffusion_jax.ranges import check_value

Array = jax.Array
Augment = Callable[[Array, Array], tuple[Array, Array]]
Condition = Callable[[Array, dict], dict]


def unconditional(key: Array, batch: dict) -> dict:
  """Returns the cond of an unconditional network, {}."""
  return {}


@dataclasses.dataclass(frozen=True)
class Network:
  """Holds a network function, what it predicts, and its inputs.

  Raises ValueError for an unknown parametrization.

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
    known: Whether cond['known'] has numbers of x_0, NaN where they are unknown.
  """

  apply: NetworkFn
  noise_input: NoiseInput
  _: dataclasses.KW_ONLY
  parametrization: Kind = 'eps'
  sigma_data: float = 0.5
  learned_variance: bool = False
  time_scale: float = 1.0
  condition: Condition = unconditional
  augment: Augment | None = None
  self_conditioning: bool = False
  estimate_probability: float = 0.5
  known: bool = False

  def __post_init__(self):
    check_value('parametrization', self.parametrization, Kind)

  def check_options(self, objective: str, *usable: str) -> None:
    """Raises ValueError for an option that is set but not in `usable`."""
    options = 'learned_variance', 'augment', 'self_conditioning', 'known'
    for name in options:
      if getattr(self, name) and name not in usable:
        raise ValueError(
          f'the network has {name}, which {objective} cannot use: remove it'
        )

  def output(
    self,
    params: Params,
    xt: Array,
    level: NoiseLevel,
    cond: dict | None = None,
    key: Array | None = None,
  ) -> Array:
    """Evaluates the network at x_t [B, ...]; returns its raw output, [B, ...].

    The output gets the precision of xt. For 'edm' the input is divided by its
    standard deviation (c_in). level: [] or [B]; cond: dict of arrays [B, ...],
    such as {'label': [B]}; key: the key of dropout, which is off without one.
    """
    scale, expanded = 1.0, NoiseLevel.expand_to(level, xt)
    if self.parametrization == 'edm':
      scale = 1.0 / edm_norm(expanded, self.sigma_data)
    noise = jnp.broadcast_to(self.noise_input(level), xt.shape[:1])
    output = self.apply(params, scale * xt, noise, cond, key=key)
    if not hasattr(output, 'astype'):
      raise TypeError(f'a network returns an array, not {kind_of(output)}')
    return output.astype(xt.dtype)

  def to_x0(self, output: Array, xt: Array, level: NoiseLevel) -> Array:
    """Converts an output without variance to an estimate of x_0."""
    return to_x0(self.parametrization, output, xt, level, self.sigma_data)

  def denoiser(self, params: Params, cond: dict | None = None) -> Denoiser:
    """Returns the network's `Denoiser` for a condition; see `output`.

    Its x_0 has the numbers of cond['known'] where these are not NaN.
    """
    known = (cond or {}).get('known')

    def denoise(xt, level):
      output, var_frac = self.output(params, xt, level, cond), None
      if self.learned_variance:
        output, fraction = jnp.split(output, 2, axis=-1)
        var_frac = variance_fraction(fraction)
      x0 = self.to_x0(output, xt, level)
      if known is not None:
        x0 = jnp.where(jnp.isnan(known), x0, known.astype(x0.dtype))
      return Prediction(x0, var_frac)

    return denoise

  def denoising_loss(
    self,
    output: Array,
    x0: Array,
    eps: Array,
    level: NoiseLevel,
    weight: Weight,
    cond: dict | None = None,
  ) -> Array:
    """Computes `denoising_loss`, summed over what is unknown, [B]."""
    known = (cond or {}).get('known')
    where = None if known is None else jnp.isnan(known)
    data = self.sigma_data, where
    return denoising_loss(
      self.parametrization, output, x0, eps, level, weight, *data
    )
