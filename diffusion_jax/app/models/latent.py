"""Diffusion models of the latents of an autoencoder (Rombach et al. 2022).

The model diffuses z = scale * (a draw of q(z | x)), where scale is latent.scale
or 1 / std of such draws over the training images. A run keeps a copy of its
autoencoder: `autoencoder/` is a run folder with the config and the averaged
weights. `latent.json`, which is written last, holds the scale, its origin and a
checksum of the weights.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.app import images
from diffusion_jax.app.config import kinds, store
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Latents, Params
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.app.models.guidance import check_unchanged, read_params
from diffusion_jax.app.models.vae import VAE
from diffusion_jax.app.run import folder
from diffusion_jax.core.keys import abstract_key, key_per_example, stream
from diffusion_jax.core.vae import reparameterize
from diffusion_jax.data import images as pixels
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import make_folder, read_json, write_json
from diffusion_jax.runtime.per_image import per_image
from diffusion_jax.runtime.sharding import batch_sharding, replicate
from diffusion_jax.training import checkpoints, checksums

MOST_IMAGES = 10_000  # for the computation of the scale
_BATCH = 500


class LatentDiffusion(Diffusion):
  """A diffusion model of latents; see `Model`."""

  schema = kinds.LATENT_DIFFUSION
  keeps: tuple[str, ...] = 'autoencoder', 'latent.json'

  def __init__(self, config: Node, workdir: str | Path, facts: images.Facts):
    super().__init__(config, workdir, facts)
    shape = config.latent.shape
    self.state_shape = shape or self.autoencoder.latent_shape()

  @functools.cached_property
  def autoencoder(self) -> VAE:
    """The autoencoder: the copy in the run, or latent.run before the start."""
    if self._record.exists():
      return self._open(self._copy)
    return self._open(self.config.latent.run, 'latent.run')

  def _open(self, run: str | Path, named: str = '') -> VAE:
    path = 'latent.run'
    config = store.open_run(run, named)
    facts, model = images.facts_of(config), None
    if kinds.kind_of(config) is kinds.VAE:
      model = VAE(config, run, facts)
    if model is None or len(model.latent_shape()) != 3:
      raise UserError(
        f'config.{path}: the run in {run} has no latents with a height and a '
        'width: give an autoencoder with objective=vae and network.latent_dim=0'
      )
    if facts.image_shape != self.facts.image_shape:
      raise UserError(
        f'config.{path}: the images in {run} are {facts.image_shape}, and here '
        f'{self.facts.image_shape}'
      )
    return model

  @property
  def _record(self) -> Path:
    return self.workdir / 'latent.json'

  @property
  def _copy(self) -> Path:
    return self.workdir / 'autoencoder'

  @functools.cached_property
  def latents(self) -> Latents:
    """The functions of the autoencoder, with the scale."""
    model = self.autoencoder
    shape = model.latent_shape()
    if shape != self.state_shape:
      raise UserError(
        f'config.latent.shape={self.state_shape}: the latents of '
        f'{self.config.latent.run} have the shape {shape}'
      )

    def encode(autoencoder, x, keys=None):
      q = model.encode(autoencoder['network'], 1, x)
      z = q.mean if keys is None else reparameterize(keys, q)
      return autoencoder['scale'] * z

    def decode(autoencoder, z):
      z = z / autoencoder['scale']
      return model.image(model.decode(autoencoder['network'], 1, z))

    return Latents(encode, decode, functools.partial(shrink_mask, shape=shape))

  def prepare(self, source: Source, mesh: Mesh) -> Params:
    """Returns {'autoencoder': parameters}.

    The first start copies the autoencoder and computes the scale from `source`;
    later starts read the copy.
    """
    if not processes.broadcast([self._record.exists()])[0]:
      self._store(source, mesh)
      processes.broadcast([True])  # all wait until it is written
    return self.load()

  def _store(self, source, mesh):
    run, model = self.config.latent.run, self.autoencoder
    with from_config('latent.run'):
      step = checkpoints.find_step(run)
    params, stored = read_params(model, 'latent.run', step)
    scale, count = self.config.latent.scale or model.decoding.scale, 0
    if not scale:
      with from_config('data'):
        scale, count = inverse_std(self._draws(params, source, mesh))
    if not np.isfinite(scale):
      raise UserError(
        f'config.latent.run: all latents of {run} are equal, or nan: train the '
        'autoencoder further'
      )
    copy = make_folder(self.workdir, self._copy.name)
    checkpoints.save_params(copy, step, params, stored)
    if not processes.is_first():
      return
    write_json(copy / 'config.json', folder.read_config(run) or {})
    write_json(self._record, {
      'scale': scale,
      'images': count,
      'run': str(run),
      'step': step,
      'checksum': checksums.of_arrays(params),
    })  # fmt: skip
    measured = f'of {count:,} images' if count else 'given'
    print(f'latents of {run}, step {step}: scale {scale:.4f}, {measured}')

  def _draws(self, params, source, mesh) -> Iterator[np.ndarray]:
    # Yields unscaled draws of the latents of the first images, [n, h, w, c].
    autoencoder = {'network': params['network'], 'scale': jnp.ones(())}
    autoencoder = replicate(mesh, autoencoder)

    def draw(autoencoder, keys, x):
      return self.latents.encode(autoencoder, x, keys)

    compute = per_image(
      draw, mesh, stream(0, 'latent_scale'), _BATCH, what='the latents'
    )
    count = min(len(source), MOST_IMAGES)
    for start in range(0, count, _BATCH):
      index = np.arange(start, min(start + _BATCH, count))
      pictures, _ = source.read(index)
      yield compute(
        autoencoder, index, pixels.scale(pictures, source.num_levels)
      )

  def frozen_shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.eval_shape(self.autoencoder.init, abstract_key())
    return {'autoencoder': {'network': shapes['network'], 'scale': scale}}

  def load(self) -> Params:
    """Returns {'autoencoder': parameters} as the run keeps them."""
    record, model = read_record(self.workdir), self._open(self._copy)
    params, _ = read_params(model, 'latent', record['step'])
    now = checksums.of_arrays(params)
    check_unchanged(
      'latent.run', self._copy, self._record, record['checksum'], now
    )
    scale = jnp.asarray(record['scale'], jnp.float32)
    return {'autoencoder': {'network': params['network'], 'scale': scale}}

  def make_encode(self, mesh: Mesh) -> Callable:
    """Returns (kept, batch, key, i) -> the batch with its images encoded.

    The key of a draw depends on `key`, the step i and the row, so latents are
    the same on any devices.
    """

    def encode(kept, batch, key, i):
      key = jax.random.fold_in(key, i)
      keys = key_per_example(key, len(batch['image']))
      z = self.latents.encode(kept['autoencoder'], batch['image'], keys)
      return batch | {'image': z}

    return jax.jit(encode, out_shardings=batch_sharding(mesh))

  def check_guide(self, guide: Diffusion) -> None:
    """Raises UserError for a guiding run with the latents of another model."""
    ours, theirs = read_record(self.workdir), read_record(guide.workdir)
    if any(ours[name] != theirs[name] for name in ('checksum', 'scale')):
      raise UserError(
        f'config.sampling.guidance.run: {guide.workdir} has the latents of '
        'another autoencoder than this run'
      )

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what diffusion in latents does not allow."""
    c, sampling = self.conditioning, self.sampling
    refused = {
      'conditioning.augment': c.augment,
      'conditioning.image': c.image,
      'conditioning.self_conditioning': c.self_conditioning,
      'sampling.clip': sampling.clip,
      'sampling.dynamic_threshold': sampling.dynamic_threshold,
      'sampling.classifier': sampling.classifier,
    }
    for field, value in refused.items():
      if value:
        yield (
          f'config.{field} needs pixels, and this run diffuses latents '
          '(config.latent): switch it off'
        )
    if mode == 'edit' and self.config.edit.constructor.observes:
      yield (
        f'config.edit={self.config.edit.name} needs pixels, and this run '
        'diffuses latents: it can do inpaint, sdedit and interpolate'
      )
    yield from super().problems(mode)


def read_record(workdir: Path) -> dict:
  """Reads the latent.json of a run; raises UserError if it cannot be read."""
  path = Path(workdir) / 'latent.json'
  kinds = {'scale': float, 'step': int, 'checksum': int}
  try:
    record = read_json(path)
    return {name: kind(record[name]) for name, kind in kinds.items()}
  except (KeyError, OSError, OverflowError, TypeError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error


def inverse_std(parts: Iterable[np.ndarray]) -> tuple[float, int]:
  """Returns (1 / std of all numbers in all parts, count of rows), in float64.

  Rombach et al. 2022, appendix on rescaling. A std of 0 gives inf, nan gives
  nan.
  """
  rows, count, total, square = 0, 0, 0.0, 0.0
  for part in parts:
    part = np.asarray(part, np.float64)
    rows, count = rows + len(part), count + part.size
    total, square = total + part.sum(), square + (part**2).sum()
  with np.errstate(divide='ignore', invalid='ignore'):
    std = np.sqrt(square / count - (total / count) ** 2)
    return float(1.0 / std), rows


def shrink_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a mask [h, w, 1], True for latents whose pixels are all True."""
  h, w = shape[:2]
  blocks = mask.reshape(h, len(mask) // h, w, mask.shape[1] // w, 1)
  small = np.asarray(blocks.all(axis=(1, 3)))
  print(f'in latents {small.mean():.0%} are known')
  return small
