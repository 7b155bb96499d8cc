"""Variational autoencoders: their samples, pictures and bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import build
from diffusion_jax.core import vae as bound
from diffusion_jax.core.keys import draw_normal, split_key, stream
from diffusion_jax.core.normal import kl
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.families.diffusion import INDEPENDENT_PIXELS
from diffusion_jax.families.family import IDENTITY, Family, Metric
from diffusion_jax.families.vae_models import build_model, init, objective
from diffusion_jax.runs import results, sample_inputs
from diffusion_jax.runs.per_image import per_image

COLUMNS = 10  # of an interpolation, both ends included

# Fields that have no effect on a VAE, and the value that they must have.
NO_USE = {
  'latent.run': '',
  'conditioning.labels': False,
  'conditioning.text': False,
  'conditioning.image': '',
  'conditioning.self_conditioning': False,
  'network.learned_variance': False,
  'objective.augment': 0.0,
  'objective.parametrization': 'eps',
  'objective.weight': 'snr',
  'objective.times': 'steps',
  'schedule.name': 'linear',
  'schedule.alphas': None,
  'sampling.sampler': 'ancestral',
  'sampling.schedule': '',
  'sampling.respacing': '',
  'sampling.guidance_scale': 1.0,
  'sampling.guidance_run': '',
  'sampling.classifier': '',
  'sampling.labels': (),
  'sampling.prompt': None,
  'sampling.trajectory': False,
}


def check(config):
  """Raises UserError for fields that a VAE would ignore."""
  for field, unused in NO_USE.items():
    section, name = field.split('.')
    if config[section][name] != unused:
      raise UserError(
        f'config.{field}={config[section][name]}: a run of objective.name='
        f'{config.objective.name} has no use for it (docs/vae.md)'
      )


def check_mode(config, mode):
  """Raises UserError for --mode=edit."""
  if mode == 'edit':
    raise UserError(
      'this run is a VAE, which changes no picture: --mode=sample writes '
      'reconstructions and interpolations, and a diffusion model can edit'
    )


def generate(config, mesh, latents=IDENTITY):
  """Returns (params, index [n], cond) -> the means of p(x | z_1), [n, ...].

  As `diffusion.generate`. z_T is drawn from N(0, I), z_{t-1} from
  p(z_{t-1} | z_t); pixels are not drawn.
  """
  model = build_model(config)
  shape = latent_shape(config, model)

  def draw(params, keys, cond):
    (count,) = keys.shape
    keys, params = split_key(keys, model.num_latents), params['network']
    z = draw_normal(keys[-1], jnp.zeros((count, *shape)))
    for t in range(model.num_latents, 1, -1):
      p = model.decode(params, t, z)
      z = bound.reparameterize(keys[t - 2], p)
    return model.image(model.decode(params, 1, z))

  return per_image(draw, mesh, stream(config.sampling.seed, 'vae_sampling'))


def latent_shape(config, model):
  """Returns the shape of z_T, without the batch."""

  def climb(params, x):
    for t in range(1, model.num_latents + 1):
      x = model.encode(params, t, x).mean
    return x

  params = build.init_shapes(init(config))['network']
  x = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  return jax.eval_shape(climb, params, x).shape[1:]


def reconstruct(model, params, x):
  """Returns x decoded from each of z_1..z_T, by means, [B, T, H, W, C]."""
  decoded, z = [], x
  for t in range(1, model.num_latents + 1):
    z = model.encode(params, t, z).mean
    back = z
    for s in range(t, 1, -1):
      back = model.decode(params, s, back).mean
    decoded.append(model.image(model.decode(params, 1, back)))
  return jnp.stack(decoded, axis=1)


def interpolate(model, params, first, last):
  """Decodes lines between the means of z_1, [B, COLUMNS, H, W, C]."""
  start, end = (model.encode(params, 1, x).mean for x in (first, last))
  path = jnp.linspace(start, end, COLUMNS, axis=1)
  decoded = model.decode(params, 1, path.reshape(-1, *path.shape[2:]))
  return model.image(decoded).reshape(*path.shape[:2], *first.shape[1:])


def write_more(config, params, path):
  """Writes pictures of test images beside `path`; returns their arrays.

  <name>-reconstructions.png: each image, then its reconstruction from every
  layer; <name>-interpolation.png: rows from one test image to another.
  """
  c, model = config.sampling, build_model(config)
  params = jax.device_get(params)['network']
  source = sample_inputs.unseen_source(config)
  with build.from_config('data'):
    x, _ = source.read(np.arange(min(c.num_samples, len(source))))
  as_shown = functools.partial(
    images.to_uint8, num_levels=config.data.num_levels
  )
  x = images.scale(x, config.data.num_levels)
  decode = jax.jit(functools.partial(reconstruct, model))
  starts = range(0, len(x), c.batch_size)
  decoded = [decode(params, x[i : i + c.batch_size]) for i in starts]
  decoded = as_shown(np.concatenate(decoded))
  arrays = {'originals': as_shown(x), 'reconstructions': decoded}
  n = min(10, len(x) // 2)
  if n:
    between = jax.jit(functools.partial(interpolate, model))
    between = between(params, x[:n], x[n : 2 * n])
    arrays['interpolation'] = as_shown(between)
    write_rows(path, 'interpolation', arrays['interpolation'], 1)
  rows = np.concatenate([arrays['originals'][:, None], decoded], axis=1)
  write_rows(path, 'reconstructions', rows[:100], 5)
  return arrays


def write_rows(path, what, rows, across):
  """Writes pictures [N, n, H, W, C], `across` rows of them side by side."""
  across = min(across, len(rows))
  zoom = max(1, round(48 / rows.shape[2]))
  flat = rows.reshape(-1, *rows.shape[2:])
  path = path.with_name(f'{path.stem}-{what}.png')
  images.write_png(path, images.grid(flat, across * rows.shape[1], zoom))
  print(f'wrote {path}')


def elbo(config):
  """Measures the bound and its terms, by one draw of z for each image."""
  model = build_model(config)

  def measure(params, keys, x0, cond):
    params = params['network']
    if model.num_latents == 1:
      q = model.encode(params, 1, x0)
      terms = bound.vae_elbo(keys, x0, q, log_likelihood(model, params))
      groups = kl(q, bound.STANDARD)
      groups = jnp.sum(groups, axis=tuple(range(1, groups.ndim - 1)))
    else:
      terms = chain_elbo(model, params, keys, x0)
      groups = terms['log_ratio']
    return {
      'total': -terms['elbo'],
      'reconstruction': -terms['reconstruction'],
      'kl': groups,
    }

  return measure


def importance_weighted(config):
  """Measures log p(x) by evaluation.num_samples draws of z for each image."""
  model, k = build_model(config), config.evaluation.num_samples

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
  """Returns (x, z_1) -> log p(x | z_1), [B]."""
  return lambda x, z: model.log_likelihood(model.decode(params, 1, z), x)


def chain_elbo(model, params, keys, x0):
  """Computes `hierarchical_elbo` of the model by one draw."""
  return bound.hierarchical_elbo(
    keys,
    x0,
    functools.partial(model.encode, params),
    functools.partial(model.decode, params),
    log_likelihood(model, params),
    num_steps=model.num_latents,
  )


FAMILY = Family(
  name='a VAE',
  init=init,
  objective=objective,
  generate=generate,
  metrics={
    'elbo': Metric(elbo, results.report_vae),
    'iw': Metric(importance_weighted, results.report_iw),
    'independent_pixels': INDEPENDENT_PIXELS,
  },
  check=check,
  check_mode=check_mode,
  write_more=write_more,
)
