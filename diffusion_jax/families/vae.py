"""What the modes do with a run of a VAE: images, pictures, and its bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import build
from diffusion_jax.build import vae_models
from diffusion_jax.core import vae as bound
from diffusion_jax.core.keys import (
  draw_normal,
  fold_in_each,
  split_key,
  stream,
)
from diffusion_jax.core.normal import kl
from diffusion_jax.data import images
from diffusion_jax.runs import sample_inputs
from diffusion_jax.training.sharding import batch_sharding, replicated

COLUMNS = 10  # of an interpolation, both ends included


def model_of(config):
  """The functions of the run's networks."""
  return vae_models.build_model(config, build.build_network(config))


def make_generate(config, mesh):
  """(params, index [B]) -> the means of p(x | z_1) at draws of the prior.

  As `sample.make_generate`: image i of a seed is a function of i alone. z_T is
  drawn from N(0, I), z_{t-1} from p(z_{t-1} | z_t); pixels are not drawn.
  """
  model = model_of(config)
  shape = latent_shape(config, model)

  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def on_mesh(params, index):
    root = stream(config.sampling.seed, 'vae_sampling')
    keys = split_key(fold_in_each(root, index), model.num_latents)
    params = params['network']
    z = draw_normal(keys[-1], jnp.zeros((len(index), *shape)))
    for t in range(model.num_latents, 1, -1):
      p = model.decode(params, t, z)
      z = bound.reparameterize(keys[t - 2], p)
    return model.image(model.decode(params, 1, z))

  def generate(params, index, *_):
    n = len(index)
    padded = np.arange(-(-n // mesh.size) * mesh.size) % n
    index = jax.device_put(index[padded], batch_sharding(mesh))
    return np.asarray(on_mesh(params, index))[:n]

  return generate


def latent_shape(config, model):
  """Shape of z_T, without the batch."""

  def climb(params, x):
    for t in range(1, model.num_latents + 1):
      x = model.encode(params, t, x).mean
    return x

  params = build.abstract_params(config)['network']
  x = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  return jax.eval_shape(climb, params, x).shape[1:]


def reconstruct(model, params, x):
  """[B, T, H, W, C]: x as z_1..z_T know it, up and down the chain by means."""
  seen, z = [], x
  for t in range(1, model.num_latents + 1):
    z = model.encode(params, t, z).mean
    back = z
    for s in range(t, 1, -1):
      back = model.decode(params, s, back).mean
    seen.append(model.image(model.decode(params, 1, back)))
  return jnp.stack(seen, axis=1)


def interpolate(model, params, first, last):
  """[B, COLUMNS, H, W, C]: along lines between the means of z_1."""
  ends = (model.encode(params, 1, x).mean for x in (first, last))
  path = jnp.linspace(*ends, COLUMNS, axis=1)
  decoded = model.decode(params, 1, path.reshape(-1, *path.shape[2:]))
  return model.image(decoded).reshape(*path.shape[:2], *first.shape[1:])


def pictures(config, params, path):
  """Writes what a VAE makes of test images beside `path`; returns its arrays.

  <name>-reconstructions.png: each image, then what every layer knows of it;
  <name>-interpolation.png: rows from one test image to another.
  """
  c, model = config.sampling, model_of(config)
  source = sample_inputs.unseen_source(config)
  with build.from_config('data'):
    x, _ = source.read(np.arange(min(c.num_samples, len(source))))
  as_shown = functools.partial(
    images.to_uint8, num_levels=config.data.num_levels
  )
  x = images.scale(x, config.data.num_levels)
  known = jax.jit(functools.partial(reconstruct, model))
  known = np.concatenate(
    [
      known(params['network'], x[i : i + c.batch_size])
      for i in range(0, len(x), c.batch_size)
    ]
  )
  arrays = {'originals': as_shown(x), 'reconstructions': as_shown(known)}
  n = min(10, len(x) // 2)
  if n:
    between = jax.jit(functools.partial(interpolate, model))
    between = between(params['network'], x[:n], x[n : 2 * n])
    arrays['interpolation'] = as_shown(between)
    write_rows(path, 'interpolation', arrays['interpolation'], 1)
  rows = np.concatenate([arrays['originals'][:, None], as_shown(known)], axis=1)
  write_rows(path, 'reconstructions', rows[:100], 5)
  return arrays


def write_rows(path, what, rows, across):
  """Pictures [N, n, H, W, C], `across` rows of them beside one another."""
  across = min(across, len(rows))
  zoom = max(1, round(48 / rows.shape[2]))
  flat = rows.reshape(-1, *rows.shape[2:])
  path = path.with_name(f'{path.stem}-{what}.png')
  images.write_png(path, images.grid(flat, across * rows.shape[1], zoom))
  print(f'wrote {path}')


def elbo(config):
  """The bound and its terms, of one draw of z for each image."""
  model = model_of(config)

  def measure(params, keys, x0, cond):
    params = params['network']
    if model.num_latents == 1:
      q = model.encode(params, 1, x0)
      found = bound.vae_elbo(keys, x0, q, log_likelihood(model, params))
      groups = kl(q, bound.STANDARD)
      groups = jnp.sum(groups, axis=tuple(range(1, groups.ndim - 1)))
    else:
      found = chain_elbo(model, params, keys, x0)
      groups = found['log_ratio']
    return {
      'total': -found['elbo'],
      'reconstruction': -found['reconstruction'],
      'kl': groups,
    }

  return measure


def importance_weighted(config):
  """log p(x) of evaluation.num_samples draws of z for each image."""
  model, k = model_of(config), config.evaluation.num_samples

  def measure(params, keys, x0, cond):
    params = params['network']
    if model.num_latents == 1:
      q = model.encode(params, 1, x0)
      decode = log_likelihood(model, params)
      weight = functools.partial(bound.vae_log_weight, x=x0, q=q, decode=decode)
    else:

      def weight(key):
        return chain_elbo(model, params, key, x0)['elbo']

    return {'log_p': bound.importance_weighted_elbo(keys, weight, k)}

  return measure


def log_likelihood(model, params):
  """(x, z_1) -> log p(x | z_1), [B]."""
  return lambda x, z: model.log_likelihood(model.decode(params, 1, z), x)


def chain_elbo(model, params, keys, x0):
  """`hierarchical_elbo` of the model at one draw."""
  return bound.hierarchical_elbo(
    keys,
    x0,
    functools.partial(model.encode, params),
    functools.partial(model.decode, params),
    log_likelihood(model, params),
    num_steps=model.num_latents,
  )
