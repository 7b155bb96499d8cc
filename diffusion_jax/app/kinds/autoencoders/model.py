"""Variational autoencoders: their samples, pictures and bounds."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.autoencoders import Decoding
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.app.kinds.sampling import AtOnce
from diffusion_jax.autoencoders import bounds as bound, objectives as vae
from diffusion_jax.core.checked import Key
from diffusion_jax.core.keys import abstract_key, draw_normal, split_key
from diffusion_jax.data import drawings
from diffusion_jax.data.spec import Facts
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training.objectives import Objective

Array = jax.Array
COLUMNS = 10  # images in a row of an interpolation, both ends included


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a variational autoencoder."""
  model = ConfiguredAutoencoder(config, facts)
  return Model(
    config=config,
    run=run,
    workdir=run,
    facts=facts,
    state_shape=facts.x.shape,
    network=lambda: model.network,
    init=model.init,
    objective=functools.partial(objective_of, model),
    refusals=(has_more_layers(model),),
    measured=model,
    plan=lambda params=None, guides=None: AtOnce(functools.partial(model.draw, params)),
    root=lambda: stream(config.sampling.seed, 'vae_sampling'),
    write_more=functools.partial(write_more, model),
    shown=functools.partial(shown, model),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class ConfiguredAutoencoder:
  """The network of a VAE, as a config describes it, and what it computes.

  Metrics measure it; see `vae_bits.LatentModel`. dropout: whether it has any with
  a key.
  """

  config: Node
  facts: Facts
  dropout: bool = True

  @functools.cached_property
  def decoding(self) -> Decoding:
    """What p(x | z) is, of a decoder's output."""
    return self.config.decoding.make()

  @functools.cached_property
  def network(self) -> nn.Module:
    """The Flax module."""
    height, width, channels = self.facts.x.shape
    count, *_ = vae.DECODERS[self.decoding.decoder]
    facts = {'image_size': (height, width), 'out_channels': count * channels}
    return self.config.network.make(facts)

  @property
  def num_latents(self) -> int:
    """T, the number of layers of latents; 1 for objective=vae."""
    return self._num_layers or 1

  @property
  def _num_layers(self) -> int | None:
    # None of a network whose methods take no layer.
    return getattr(self.network, 'num_latents', None)

  def _method(self, name, params, t, z, key):
    layer = () if self._num_layers is None else (t,)
    train = self.dropout and key is not None
    rngs = {'dropout': key} if train else {}

    @on_auto_axes
    def run(z, params, rngs) -> PyTree:
      return self.network.apply({'params': params}, *layer, z, train, rngs=rngs, method=name)

    output = run(z, params, rngs)
    if not isinstance(output, tuple):
      return output
    return dj.Normal(output[0], jnp.exp(output[1]))

  def encode(
    self, params: Params, t: int, z: Array | float, *, key: Key | None = None
  ) -> dj.Normal:
    """Returns q(z_t | z_{t-1}), t = 1..T, z_0 = x; key: of dropout."""
    return self._method('encode', params, t, z, key)

  def decode(self, params: Params, t: int, z: Array | float, *, key: Key | None = None) -> PyTree:
    """Returns p(z_{t-1} | z_t), and for t = 1 the output: p(x | z_1)."""
    return self._method('decode', params, t, z, key)

  def image(self, output: Array) -> Array:
    """Returns the mean of p(x | z) of a decoder's output, in [-1, 1]."""
    _, _, mean = vae.DECODERS[self.decoding.decoder]
    return jnp.clip(mean(output), -1.0, 1.0)

  def log_likelihood(self, output: Array, x: Array) -> Array:
    """Returns log p(x | z) of a decoder's output, nats, [B]."""
    decoder, levels = self.decoding.decoder, self.facts.x.levels
    return vae.log_likelihood(decoder, levels)(output, x)

  def log_likelihood_of(self, params: Params) -> Callable[[Array, Array], Array]:
    """Returns (x, z_1) -> log p(x | z_1), nats, [B]."""
    return lambda x, z: self.log_likelihood(self.decode(params, 1, z), x)

  def latent_shape(self) -> tuple[int, ...]:
    """Returns the shape of z_T, without the batch."""

    def climb(params, x):
      for t in range(1, self.num_latents + 1):
        x = self.encode(params, t, x).mean
      return x

    params = jax.eval_shape(self.init, abstract_key())['network']
    x = jax.ShapeDtypeStruct((1, *self.facts.x.shape), jnp.float32)
    return jax.eval_shape(climb, params, x).shape[1:]

  def init(self, key: Key) -> Params:
    """Returns the first parameters, {'network': ...}; can be traced."""
    # The first of two keys, as for models that can learn a schedule.
    key, _ = jax.random.split(key)
    x = jnp.zeros((1, *self.facts.x.shape))
    return {'network': self.network.init(key, x)['params']}

  def draw(self, params: Params, keys: Array, cond: dict) -> Array:
    """Returns the means of p(x | z_1), [B, H, W, C]; cond: without effect.

    z_T is drawn from N(0, I) and z_{t-1} from p(z_{t-1} | z_t); the pixels are
    means.
    """
    shape, layers = (*keys.shape, *self.latent_shape()), self.num_latents
    keys, params = split_key(keys, layers), params['network']
    z = draw_normal(keys[-1], jnp.zeros(shape))
    for t in range(layers, 1, -1):
      z = bound.reparameterize(keys[t - 2], self.decode(params, t, z))
    return self.image(self.decode(params, 1, z))

  def reconstruct(self, params: Params, x: Array) -> Array:
    """Returns reconstructions of x from each of z_1..z_T, [B, T, H, W, C]."""
    decoded, z = [], x
    for t in range(1, self.num_latents + 1):
      z = self.encode(params, t, z).mean
      back = z
      for s in range(t, 1, -1):
        back = self.decode(params, s, back).mean
      decoded.append(self.image(self.decode(params, 1, back)))
    return jnp.stack(decoded, axis=1)

  def interpolate(self, params: Params, first: Array, last: Array) -> Array:
    """Decodes points between the means of z_1, [B, COLUMNS, H, W, C]."""
    start, end = (self.encode(params, 1, x).mean for x in (first, last))
    path = jnp.linspace(start, end, COLUMNS, axis=1)
    decoded = self.decode(params, 1, path.reshape(-1, *path.shape[2:]))
    return self.image(decoded).reshape(*path.shape[:2], *first.shape[1:])

  def chain_elbo(self, params: Params, keys: Array, x0: Array) -> dict:
    """Computes `hierarchical_elbo` by one draw of the latents."""
    encode = functools.partial(self.encode, params)
    decode = functools.partial(self.decode, params)
    likelihood = self.log_likelihood_of(params)
    return bound.hierarchical_elbo(keys, x0, encode, decode, likelihood, num_steps=self.num_latents)


def objective_of(model: ConfiguredAutoencoder, test: bool = False) -> Objective:
  """Makes the loss; `test`: of a held-out loss, without dropout."""
  if test:
    model = dataclasses.replace(model, dropout=False)
  methods = model.encode, model.decode, model.log_likelihood
  facts = {method.__name__: method for method in methods}
  objective = model.config.objective.as_held_out() if test else model.config.objective
  return objective.make(facts | {'num_latents': model.num_latents})


def has_more_layers(model: ConfiguredAutoencoder) -> Row:
  """Returns the rule that objective=vae trains one layer of latents."""
  return Row(
    lambda c, facts: (
      'num_latents' not in parameters(c.objective.constructor)
      and model.num_latents > 1
      and model.num_latents
    ),
    'config.objective=vae trains one layer of latents, and this network has {it}: set '
    'objective=hvae',
  )


def shown(model: ConfiguredAutoencoder) -> dict[str, np.ndarray]:
  """Returns the test images that `write_more` shows."""
  source = datasets.unseen(model.config)
  with from_config('data'):
    index = np.arange(min(model.config.sampling.num_samples, len(source)))
    return {'shown': source.read(index)['x']}


def write_more(
  model: ConfiguredAutoencoder, params: Params, path: Path, samples: np.ndarray
) -> dict[str, np.ndarray]:
  """Writes pictures of test images next to `path`; returns their arrays.

  <name>-reconstructions.png shows each image with its reconstruction from
  every layer, <name>-interpolation.png rows between two test images.
  """
  c, values = model.config.sampling, model.facts.x
  params = jax.device_get(params)['network']
  x = values.encode(shown(model)['shown'])
  decode = jax.jit(model.reconstruct)
  starts = range(0, len(x), c.batch_size)
  decoded = [decode(params, x[i : i + c.batch_size]) for i in starts]
  decoded = values.decode(np.concatenate(decoded))
  arrays = {'originals': values.decode(x), 'reconstructions': decoded}
  n = min(10, len(x) // 2)
  if n:
    between = jax.jit(model.interpolate)(params, x[:n], x[n : 2 * n])
    arrays['interpolation'] = values.decode(between)
    _write_rows(path, 'interpolation', arrays['interpolation'], 1)
  rows = np.concatenate([arrays['originals'][:, None], decoded], axis=1)
  _write_rows(path, 'reconstructions', rows[:100], 5)
  return arrays


def _write_rows(path, what, rows, across):
  # Writes pictures [N, n, H, W, C], `across` rows of them in one line.
  across = min(across, len(rows))
  zoom = max(1, round(48 / rows.shape[2]))
  flat = rows.reshape(-1, *rows.shape[2:])
  path = path.with_name(f'{path.stem}-{what}.png')
  drawings.write_png(path, drawings.grid(flat, across * rows.shape[1], zoom))
  print(f'wrote {path}')
