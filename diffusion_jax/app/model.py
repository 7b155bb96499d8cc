"""The interface between modes and kinds of models."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from diffusion_jax.app import images
from diffusion_jax.app.config.fields import Conditioning
from diffusion_jax.app.config.tree import Node, Schema
from diffusion_jax.app.images import Facts
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import refuse
from diffusion_jax.runtime.per_image import PerImage
from diffusion_jax.training.objectives import Objective

Params = dict[str, Any]
Encode = Callable[[Params, dict, jax.Array, int], dict]


class OtherRun(NamedTuple):
  """The model of another run, with its averaged parameters."""

  model: Any
  params: Params


# The first images after some steps: {number of steps: images [m, ...]}.
Frames = Callable[[], dict[int, np.ndarray]]
# The runs that guide the sampling, by their field of config.sampling.
Guides = Mapping[str, OtherRun]


class Latents(NamedTuple):
  """The functions of an autoencoder whose latents are diffused.

  encode(autoencoder, x, keys=None) -> z, the mean of q(z | x) without keys;
  decode(autoencoder, z) -> x; shrink_mask: bool [H, W, 1] -> [h, w, 1]. The
  parameters are an argument, so that compiled programs do not contain them.
  """

  encode: Callable[..., jax.Array]
  decode: Callable[..., jax.Array]
  shrink_mask: Callable[[np.ndarray], np.ndarray] = lambda mask: mask


IDENTITY = Latents(
  lambda autoencoder, x, keys=None: x, lambda autoencoder, z: z
)


class Model(Protocol):
  """Base class of all kinds of models.

  schema: the sections of its configs, and its metrics. keeps: files and folders
  in the run folder that hold parameters besides the checkpoints. sampling: the
  object of config.sampling; None for models without such choices.
  """

  schema: Schema
  network: nn.Module
  makes_images: bool
  keeps: tuple[str, ...] = ()

  config: Node
  workdir: Path
  facts: Facts
  state_shape: tuple[int, ...]
  conditioning: Conditioning
  sampling: Any

  def __init__(
    self, config: Node, workdir: str | Path, facts: Facts
  ) -> None: ...

  def check(self, mode: str) -> None:
    """Raises UserError for a config that the model or the mode cannot use."""
    refuse(self.problems(mode))

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what the model or the mode cannot use, and what to do instead."""
    ...

  def init(self, key: jax.Array) -> Params:
    """Returns the first parameters, {'network': ..., ...}; can be traced."""
    ...

  def objective(self, test: bool = False) -> Objective:
    """Returns the loss; `test`: without dropout, augmentation and penalties."""
    ...

  def generate(
    self, mesh: Mesh, guides: Guides | None = None, trajectory: bool = False
  ) -> PerImage:
    """Returns (params, index [n], cond) -> images [n, ...] in [-1, 1].

    guides: the result of `other_runs.guides_of`. With `trajectory` the result
    is (images, `Frames`), (images, None) for a model that takes no steps.
    """
    ...

  def source(self, split: str = 'train') -> Source:
    """Returns the images of a split."""
    return images.source_of(self.config, split)

  def prepare(self, source: Source, mesh: Mesh) -> Params:
    """Returns the parameters that are not trained, when a training starts.

    The first start stores them, or a checksum of them, in the run folder.
    Models without such parameters return {}, here and below.
    """
    return {}

  def frozen_shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    return {}

  def load(self) -> Params:
    """Reads the parameters that are not trained from the run folder."""
    return {}

  def make_encode(self, mesh: Mesh) -> Encode:
    """Returns a function (parameters not trained, batch, key, step) -> batch.

    Models of latents encode the images; others return the batch unchanged.
    """
    return lambda kept, batch, key, i: batch

  def pictures(self, images: np.ndarray) -> np.ndarray:
    """Returns how images uint8 [n, H, W, C] are drawn: as they are."""
    return images

  def write_more(
    self, params: Params, path: Path, samples: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Writes further files of --mode=sample; returns arrays for its npz.

    samples: uint8 [n, H, W, C].
    """
    return {}
