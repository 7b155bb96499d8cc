"""Diffusion models of the latents of an autoencoder (Rombach et al. 2022).

The model diffuses z = scale * (a draw of q(z | x)), where scale is latent.scale
or 1 / std of such draws over the training images. A run keeps a copy of its
autoencoder: `autoencoder/` is a run folder with the config and the averaged
weights. `latent.json`, which is written last, holds the scale, its origin and a
checksum of the weights.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.stored_latents import check_record
from diffusion_jax.app.kinds import autoencoders, roles, store
from diffusion_jax.app.kinds.autoencoders.model import ConfiguredAutoencoder
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.model import Frozen, Latents, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.other_runs import check_fits, check_unchanged, open_weights
from diffusion_jax.app.kinds.sampling import DenoiserSampling
from diffusion_jax.autoencoders.bounds import reparameterize
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.normal import Normal
from diffusion_jax.data.pictures import shrink_mask
from diffusion_jax.data.sources import Source, some_of
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes, run_folder
from diffusion_jax.runtime.files import read_summed, write_summed
from diffusion_jax.runtime.per_example import per_example
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.runtime.streams import stream
from diffusion_jax.weights import checkpoints, checksums
from diffusion_jax.weights.load import Stored

MOST_IMAGES = 10_000  # images that determine the scale of the latents
_BATCH = 500
_UNREAD = 'num_classes', 'class_names', 'context'  # facts that an autoencoder does not read


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a diffusion model of latents."""
  sampling: DenoiserSampling = config.sampling.make()
  stored = StoredAutoencoder(config, run, facts)
  noisy = ConfiguredNetwork.of(config, facts, state_shape=stored.shape)
  plan = functools.partial(diffusion.plan_of, noisy, sampling)
  latents = latents_of(stored)
  if config.latent.path:
    latents = latents._replace(draw=stored.draw)
  model = diffusion.of_network(noisy, run, plan, latents)
  return dataclasses.replace(
    model,
    measured=dataclasses.replace(noisy, autoencoder=lambda: stored.checked),
    autoencoder=Frozen(stored.prepare, stored.shapes, stored.load),
    keeps=('autoencoder', 'latent.json'),
  )


def latents_of(stored: 'StoredAutoencoder') -> Latents:
  """Returns the functions of an autoencoder; its run is opened by their use."""
  return Latents(
    stored.encode,
    stored.decode,
    functools.partial(shrink_mask, shape=stored.shape),
    identity_of,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class StoredAutoencoder:
  """The autoencoder of a run, with its latents' scale, in the run folder."""

  config: Node
  run: RunFolder
  facts: Facts

  @functools.cached_property
  def autoencoder(self) -> ConfiguredAutoencoder:
    """The autoencoder: the copy in the run, or latent.run before the start."""
    if self.run.latent.exists():
      return self._open(self.run.autoencoder)
    return self._open(RunFolder.at(self.config.latent.run, written=False), 'latent.run')

  @functools.cached_property
  def shape(self) -> tuple[int, ...]:
    """The shape of the latents."""
    return self.config.latent.shape or self.autoencoder.latent_shape()

  def _open(self, run: RunFolder, named: str = '') -> ConfiguredAutoencoder:
    config = store.open_run(run, named)
    facts = datasets.facts_of(config)
    is_vae = config.schema.kind == autoencoders.SCHEMA.kind
    model = ConfiguredAutoencoder(config, facts)
    if not is_vae or len(model.latent_shape()) != 3:
      raise UserError(
        f'config.latent.run: the run in {run} has no latents with a height and '
        'a width: give an autoencoder with objective=vae and '
        'network.latent_dim=0'
      )
    theirs, ours = (each._replace(x=each.x.written) for each in (facts, self.facts))
    check_fits('latent.run', run.name, theirs, ours, _UNREAD)
    return model

  @functools.cached_property
  def checked(self) -> ConfiguredAutoencoder:
    """The autoencoder, whose latents have the shape of the config."""
    shape = self.autoencoder.latent_shape()
    if shape != self.shape:
      raise UserError(
        f'config.latent.shape={self.shape}: the latents of '
        f'{self.config.latent.run} have the shape {shape}'
      )
    return self.autoencoder

  def encode(self, autoencoder: Params, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Returns a draw of z for each of the keys, or the mean of q(z | x)."""
    q = self.checked.encode(autoencoder['network'], 1, x)
    z = q.mean if keys is None else reparameterize(keys, q)
    return autoencoder['scale'] * z

  def moments(self, network: Params, x: jax.Array) -> jax.Array:
    """Returns mean and std of q(z | x), unscaled, [B, h, w, 2c]."""
    q = self.checked.encode(network, 1, x)
    return jnp.concatenate(jnp.broadcast_arrays(q.mean, jnp.sqrt(q.variance)), axis=-1)

  def draw(self, autoencoder: Params, moments: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns a draw of z for each of the keys; see `stored_latents`."""
    _, *shape = moments[:, :, 0].shape
    if shape != [*self.shape[:2], 2 * self.shape[2]]:
      raise UserError(
        f'config.latent.path: {self.config.latent.path} has means and deviations {shape} of '
        f'latents {[*self.shape]}: write it again, by --mode=encode'
      )
    mean, std = jnp.split(moments[:, :, 0], 2, axis=-1)
    return autoencoder['scale'] * reparameterize(keys, Normal(mean, std**2))

  def decode(self, autoencoder: Params, z: jax.Array) -> jax.Array:
    """Returns the images of latents, in [-1, 1]."""
    model, z = self.checked, z / autoencoder['scale']
    return model.image(model.decode(autoencoder['network'], 1, z))

  def prepare(self, source: Source | None, mesh: Mesh | None) -> Params:
    """Returns {'autoencoder': parameters}.

    The first start copies the autoencoder and computes the scale from `source`;
    later starts read the copy.
    """
    if path := self.config.latent.path:
      check_record(path, {'autoencoder': self.identity()})
    if not processes.broadcast([self.run.latent.exists()])[0]:
      self._store(source, mesh)
      run_folder.share(self.run.latent, 'the autoencoder')
    return self.load()

  def _store(self, source, mesh):
    run, model = self.config.latent.run, self.autoencoder
    params, stored, step = open_weights('latent.run', run, model.init)
    scale, count = self.config.latent.scale or model.decoding.scale, 0
    if not scale:
      with from_config('data'):
        scale, count = inverse_std(self._draws(params, source, mesh))
    if not np.isfinite(scale):
      raise UserError(
        f'config.latent.run: all latents of {run} are equal, or nan: train the autoencoder further'
      )
    copy = self.run.make(self.run.autoencoder.path.name)
    checkpoints.save_params(copy, step, params, stored)
    if not processes.is_first():
      return
    folder.write_stored(copy, folder.read_config(RunFolder.at(run)) or {})
    write_summed(
      self.run.latent,
      {
        'scale': scale,
        'images': count,
        'run': str(run),
        'step': step,
        'checksum': checksums.of_arrays(params),
      },
    )
    measured = f'of {count:,} images' if count else 'given'
    print(f'latents of {run}, step {step}: scale {scale:.4f}, {measured}')

  def _draws(self, params, source, mesh) -> Iterator[np.ndarray]:
    # Yields unscaled draws of the latents of random images, [n, h, w, c].
    unscaled = {'network': params['network'], 'scale': jnp.ones(())}
    autoencoder = replicate(mesh, unscaled)

    def draw(autoencoder, keys, x):
      return latents_of(self).encode(autoencoder, x, keys)

    key = stream(0, 'latent_scale')
    compute = per_example(draw, mesh, key, _BATCH, what='the latents')
    chosen = some_of(source, MOST_IMAGES)
    for index in (chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH)):
      x0 = self.facts.x.encode(source.read(index)['x'])
      yield compute(autoencoder, index, x0)

  def shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.eval_shape(self.autoencoder.init, abstract_key())
    return {'autoencoder': {'network': shapes['network'], 'scale': scale}}

  def load(self) -> Params:
    """Returns {'autoencoder': parameters} as the run keeps them."""
    scale = jnp.asarray(read_record(self.run)['scale'], jnp.float32)
    return {'autoencoder': {'network': self.weights().params['network'], 'scale': scale}}

  def identity(self) -> Json:
    """Returns what its latents depend on before the scale."""
    started = self.run.latent.exists()
    run = self.run.autoencoder if started else RunFolder.at(self.config.latent.run)
    return autoencoder_of(run, checksums.of_arrays(self.weights().params))

  def weights(self) -> Stored:
    """Opens the weights: the copy in the run, or latent.run before the start."""
    if not self.run.latent.exists():
      return open_weights('latent.run', self.config.latent.run, self.autoencoder.init)
    record, copy = read_record(self.run), self.run.autoencoder.path
    weights = open_weights('latent', copy, self.autoencoder.init, record['step'])
    now = checksums.of_arrays(weights.params)
    check_unchanged('latent.run', copy, self.run.latent, before=record['checksum'], now=now)
    return weights


def read_record(run: RunFolder) -> dict:
  """Reads the latent.json of a run; raises UserError if it cannot be read."""
  path, kinds = run.latent, {'scale': float, 'step': int, 'checksum': int}
  try:
    record = read_summed(path)
    return {name: kind(record[name]) for name, kind in kinds.items()}
  except (KeyError, OSError, OverflowError, TypeError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error


def identity_of(run: RunFolder) -> Json:
  """Returns what only runs with the same latents have in common."""
  record = read_record(run)
  return {'scale': record['scale'], **autoencoder_of(run.autoencoder, record['checksum'])}


def autoencoder_of(run: RunFolder, weights: int) -> Json:
  """Returns what the latents of an autoencoder depend on: its network, code and weights."""
  config_hash = roles.config_hash(run, 'data', 'objective', 'optimizer', 'training')
  code = trust.code_of(store.open_run(run))
  return {'weights': weights, 'config_hash': config_hash, 'code': code}


def inverse_std(parts: Iterable[np.ndarray]) -> tuple[float, int]:
  """Returns (1 / std of all numbers in all parts, count of rows), in float64.

  Rombach et al. 2022, appendix on rescaling. A std of 0 gives inf, nan gives
  nan.
  """
  rows, count, mean, square = 0, 0, 0.0, 0.0
  with np.errstate(divide='ignore', invalid='ignore'):
    for part in parts:
      part = np.asarray(part, np.float64)
      rows, before, count = rows + len(part), count, count + part.size
      apart = part.mean() - mean  # Chan et al. 1983: no difference of squares
      square += np.square(part - part.mean()).sum() + apart**2 * before * part.size / count
      mean += apart * part.size / count
    return float(1.0 / np.sqrt(square / count)), rows
