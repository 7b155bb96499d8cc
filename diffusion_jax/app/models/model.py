"""What the modes need of a kind of model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax.app import images
from diffusion_jax.app.choices import Conditioning
from diffusion_jax.app.config import Schema
from diffusion_jax.app.images import Facts
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.per_image import PerImage
from diffusion_jax.training.objectives import Objective

Params = dict[str, Any]


class Latents(NamedTuple):
  """What is diffused in place of images: functions of an autoencoder.

  encode(autoencoder, x, keys=None) -> z, the mean of q(z | x) without keys;
  decode(autoencoder, z) -> x; shrink_mask: bool [H, W, 1] -> [h, w, 1]. The
  autoencoder's parameters are an argument of compiled programs, not a constant.
  """

  encode: Callable[..., Any]
  decode: Callable[..., Any]
  shrink_mask: Callable[[np.ndarray], np.ndarray] = lambda mask: mask


IDENTITY = Latents(
  lambda autoencoder, x, keys=None: x, lambda autoencoder, z: z
)


class Model(Protocol):
  """A kind of model: a class for each is in this folder, derived from this.

  schema: the sections of its configs, and its metrics. keeps: files and folders
  of a run folder, besides the checkpoints, that hold parameters of the model.
  sampling: the object of config.sampling; None for models without such choices.
  """

  schema: Schema
  makes_images: bool
  keeps: tuple[str, ...] = ()

  config: ConfigDict
  workdir: Path
  facts: Facts
  conditioning: Conditioning
  sampling: Any

  def __init__(
    self, config: ConfigDict, workdir: str | Path, facts: Facts
  ) -> None: ...

  def check(self, mode: str) -> None:
    """Raises UserError for what this model, or a mode of it, cannot have."""
    ...

  def init(self, key: Any) -> Params:
    """Returns the first parameters, {'network': ..., ...}; can be traced."""
    ...

  def objective(self, test: bool = False) -> Objective:
    """Returns the loss; for `test` without dropout, augmentation, penalties."""
    ...

  def generate(
    self, mesh: Mesh, guides: Any = None, trajectory: bool = False
  ) -> PerImage:
    """Returns (params, index [n], cond) -> images [n, ...] in [-1, 1].

    guides: of `other_runs.guides_of`.
    """
    ...

  def source(self, split: str = 'train') -> Source:
    """Returns the images of a split."""
    return images.source_of(self.config, split)

  def prepare(self, source: Source, mesh: Mesh) -> Params:
    """Returns the parameters that are not trained; called by a training.

    The first start writes them, or what identifies them, into the run folder.
    Models without such parameters return {}, here and below.
    """
    return {}

  def frozen_shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    return {}

  def load(self) -> Params:
    """Returns the parameters that are not trained, from the run folder."""
    return {}

  def make_encode(self, mesh: Mesh) -> Callable[[Params, dict, Any, int], dict]:
    """Returns (parameters not trained, batch, key, i) -> what is diffused.

    The batch itself, but for models of latents.
    """
    return lambda kept, batch, key, i: batch

  def pictures(self, images: np.ndarray) -> np.ndarray:
    """Returns how images uint8 [n, H, W, C] are drawn: as they are."""
    return images

  def write_more(
    self, params: Params, path: Path, images: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Writes further files of --mode=sample; returns arrays for its npz.

    images: the samples, uint8 [n, H, W, C].
    """
    return {}
