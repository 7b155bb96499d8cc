"""Models of noisy images as metrics of real images measure them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.core.process import Variance
from diffusion_jax.data.spec import Facts
from diffusion_jax.testing.floors import Line


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """A network of noisy images, with what `metrics.likelihoods` and others ask of it.

  losses: what the metric `loss` computes, see `metrics.losses`. autoencoder_of: of latents,
  () -> their autoencoder.
  """

  noisy: ConfiguredNetwork
  losses: Callable[..., Callable] | None = None
  autoencoder_of: Callable[[], Any] | None = None

  @property
  def facts(self) -> Facts:
    """The facts of the images."""
    return self.noisy.facts

  @property
  def reads(self) -> tuple[str, ...]:
    """What the network reads besides x_t and its level, names of `floors.READ`."""
    return self.noisy.reads

  @property
  def infinite_floors(self) -> tuple[Line, ...]:
    """The exact denoisers without a finite loss on held-out examples."""
    return self.noisy.infinite_floors

  @property
  def clips(self) -> bool:
    """Whether sampling bounds x_0."""
    return self.noisy.clips

  @property
  def schedule_steps(self) -> int:
    """The number of steps of the schedule; 1000 in continuous time."""
    return self.noisy.process.steps

  @property
  def starts_noisy(self) -> bool:
    """Whether the schedule has noise at t = 0, as a learned one has."""
    process = self.noisy.process
    return process.is_learned or float(process.schedule(0.0).sigma) > 0.0

  @property
  def reverse_variance(self) -> Variance:
    """The variance of the reverse process, from the sampler's section."""
    sampler = self.noisy.config.sampling.get('sampler') or {}
    return sampler.get('variance', 'fixed_small')

  @property
  def autoencoder(self) -> Any:
    """The autoencoder of the latents, for `vae_bits.LatentDiffusion`."""
    assert self.autoencoder_of is not None
    return self.autoencoder_of()

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule of the training."""
    return self.noisy.schedule(params)

  def denoiser(self, params: Params, cond: dict) -> dj.Denoiser:
    """Returns the denoiser, without guidance and clipping."""
    return self.noisy.denoiser(params, cond)

  def logits(self, params: Params) -> Callable[..., jax.Array]:
    """Returns (x_t, level) -> logits [B, num_classes] of a classifier."""
    return self.noisy.logits(params)
