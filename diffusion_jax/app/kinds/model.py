"""What modes need of a model, as data; each kind has a folder with a maker."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.schema import Schema
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.kinds.couplings import COUPLINGS
from diffusion_jax.app.kinds.estimates import ESTIMATES
from diffusion_jax.app.kinds.idle import IDLE
from diffusion_jax.app.kinds.network import Conditioning, ConfiguredNetwork
from diffusion_jax.app.kinds.rules import CONFLICTS, Row, lines
from diffusion_jax.core.arguments import pytree_dataclass
from diffusion_jax.core.keys import abstract_key, key_per_example
from diffusion_jax.data.sources import Source
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime import sharding
from diffusion_jax.runtime.compiling import Effort
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Objective

# The first images after some steps: {number of steps: images [m, ...]}.
Frames = Callable[[], dict[int, np.ndarray]]
SHORT = 2000  # Steps of a training that compiles for longer than it gains.


@pytree_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OtherRun:
  """The network of another run, with its averaged parameters."""

  noisy: ConfiguredNetwork = dataclasses.field(metadata={'static': True})
  params: Params


# The runs that guide the sampling, by their field of config.sampling.
Guides = Mapping[str, OtherRun]


class Latents(NamedTuple):
  """The functions between images and what is diffused.

  encode(autoencoder, x, keys=None) -> z, the mean of q(z | x) without keys;
  decode(autoencoder, z) -> x; shrink_mask: bool [H, W, 1] -> [h, w, 1]. The
  parameters are an argument, so that compiled programs do not contain them.
  draw(autoencoder, x, keys) -> z, of what a training reads instead of images.
  record: run -> what only runs with the same latents have in common.
  """

  encode: Callable[..., jax.Array]
  decode: Callable[..., jax.Array]
  shrink_mask: Callable[[np.ndarray], np.ndarray] = lambda mask: mask
  record: Callable[[RunFolder], object] = lambda run: None
  draw: Callable[..., jax.Array] | None = None

  def decoded(self, params: Params, z: jax.Array) -> jax.Array:
    """Returns the images of z, by the parameters of a run."""
    return self.decode(params.get('autoencoder'), z)


IDENTITY = Latents(lambda autoencoder, x, keys=None: x, lambda autoencoder, z: z)


class Frozen(NamedTuple):
  """Parameters by name that a model needs and does not train.

  prepare(source, mesh) returns them when a training starts: the first start
  stores them, or a checksum of them, in the run folder. shapes() returns their
  shapes, and load() reads them from the run folder.
  """

  prepare: Callable[[Source | None, Mesh | None], Params]
  shapes: Callable[[], Params]
  load: Callable[[], Params] = dict


NOTHING = Frozen(lambda source, mesh: {}, dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
  """What modes need of a model.

  run: the folder that is read; workdir: the folder that modes write, mostly the same.
  state_shape: of what is diffused, or of the images.
  network() -> the Flax module. init(key) -> the first parameters, {'network':
  ..., ...}; it can be traced. objective(test=False) -> the loss; `test`:
  without dropout and augmentation. losses(exact=True, training=False)
  -> (params, key, batch) -> the metrics of this loss, of each row, with a denoiser
  of `testing.floors`; None without such losses. measured: what its metrics measure.
  refusals: rows about what only the model computes.

  plan(params=None, guides=None) -> how images are drawn, a `Plan` or `AtOnce`;
  None: it makes none. root() -> the key of all samples. noisy: the network with
  its process; None: it sees no noise, and draws without steps. teacher,
  autoencoder: the parameters that the loss and the latents need.
  ends: two entries of the data: where samples start, '' for noise, and what the
  samples are compared with.
  write_more(params, path, samples) writes further files of --mode=sample and
  returns arrays for its npz file; shown() reads the data that it shows.
  given: an entry of the data that samples are given whole, '' for none; draws: the names of what
  they are drawn with, as files of samples have it.
  keeps: files and folders of the run with parameters besides the checkpoints.
  features(params) -> (images uint8 [B, H, W, C] -> the arrays of an extractor),
  of a classifier.
  """

  config: Node
  run: RunFolder
  workdir: RunFolder
  facts: Facts
  state_shape: tuple[int, ...]
  network: Callable[[], nn.Module]
  init: Callable[[jax.Array], Params]
  objective: Callable[..., Objective]
  measured: object
  root: Callable[[], jax.Array]
  losses: Callable[..., Callable[..., dict]] | None = None
  refusals: tuple[Row, ...] = ()
  conditioning: Conditioning = Conditioning()
  noisy: ConfiguredNetwork | None = None
  plan: Callable[..., Any] | None = None
  teacher: Frozen = NOTHING
  autoencoder: Frozen = NOTHING
  latents: Latents = IDENTITY
  ends: tuple[str, str] = '', 'x'
  write_more: Callable[[Params, Path, np.ndarray], dict[str, np.ndarray]] = (
    lambda params, path, samples: {}
  )
  shown: Callable[[], dict[str, np.ndarray]] = dict
  keeps: tuple[str, ...] = ()
  given: str = ''
  draws: tuple[str, ...] = ()
  features: Callable[[Params], Callable[[jax.Array], dict]] | None = None

  @property
  def schema(self) -> Schema:
    """The schema of its configs."""
    return self.config.schema

  @property
  def takes_known(self) -> bool:
    """Whether samples take some numbers of x, which stay as they are given."""
    return self.noisy is not None and self.noisy.holds_known

  def draw(
    self, params: Params, guides: Guides, keys: jax.Array, cond: dict
  ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
    """Returns (images [B, ...] in [-1, 1], states of the first, others); see `Plan.film`."""
    assert self.plan is not None
    x, states, others = self.plan(params, guides).film(keys, cond)
    return self.latents.decoded(params, x), states, others

  def shapes(self) -> Params:
    """Returns the shapes of the parameters."""
    with from_config('network'):
      return jax.eval_shape(self.init, abstract_key())

  def check(self, mode: str) -> None:
    """Raises UserError for a config that the model or the mode cannot use."""
    rows = *self.schema.rules, *self.refusals, *CONFLICTS, *COUPLINGS, *ESTIMATES, *IDLE
    refuse(lines(rows, self.config, mode, self.run, self.facts))


def make_encode(model: Model, mesh: Mesh) -> Callable[..., dict]:
  """Returns (frozen, batch, key, i) -> the batch with draws of its latents.

  Only an autoencoder needs this program. The key of a draw depends on `key`,
  the step i and the row, so latents are the same on any devices.
  """
  if model.autoencoder is NOTHING:
    return lambda frozen, batch, key, i: batch

  def encode(frozen, batch, key, i):
    key = jax.random.fold_in(key, i)
    keys = key_per_example(key, len(batch['x']))
    draw = model.latents.draw or model.latents.encode
    z = draw(frozen['autoencoder'], batch['x'], keys)
    return batch | {'x': z}

  return jax.jit(encode, out_shardings=sharding.batch_sharding(mesh))


def make_mesh(config: Node) -> Mesh:
  """Returns the mesh of config.training.machine.mesh.

  Raises UserError if its devices do not have what the config chooses.
  """
  with from_config('training.machine.mesh'):
    mesh = sharding.make_mesh(*config.training.machine.mesh)
  check_attention(config, mesh)
  return mesh


def effort(config: Node) -> Effort:
  """Returns how XLA compiles the programs of a run, by training.machine.compile."""
  c = config.training
  if c.machine.compile != 'auto':
    return c.machine.compile
  return 'fast' if c.num_steps <= SHORT else 'tuned'


def check_attention(config: Node, mesh: Mesh) -> None:
  """Raises UserError if the mesh's devices do not have network.attention."""
  platform = sharding.platform_of(mesh)
  if config.network.get('attention') == 'cudnn' and platform != 'gpu':
    raise UserError(
      f'config.network.attention=cudnn needs a GPU, and this is {platform}: set it to auto'
    )
