"""config.latent -> the shape of what is diffused, and what cannot be asked."""

from diffusion_jax.errors import UserError

# What diffusion in latents cannot have, the values that it can, and why.
REFUSED = {
  'objective.name': (
    ('denoising', 'ddpm'),
    'the bounds of other objectives are of pixels',
  ),
  'objective.augment': ((0.0,), 'its changes are of images'),
  'conditioning.image': (('',), 'its networks are told of an image'),
  'conditioning.self_conditioning': ((False,), 'its estimate is within [-1, 1]'),
  'sampling.clip': ((False,), 'latents are not within [-1, 1]'),
  'sampling.dynamic_threshold': ((0.0,), 'latents are not within [-1, 1]'),
  'sampling.classifier': (('',), 'classifiers are of images'),
}


def is_latent(config):
  """Whether the config diffuses latents of another run, not pixels."""
  return bool(config.latent.run)


def state_shape(config):
  """Shape of what is diffused, without the batch: images, or their latents."""
  c = config.latent
  return tuple(c.shape if c.run else config.data.image_shape)


def check(config):
  """UserError for what diffusion in latents cannot have."""
  if not is_latent(config):
    return
  shape = config.latent.shape
  if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
    raise UserError(
      f'config.latent.shape={shape}: give height, width and channels of the '
      'latents, such as --config.latent.shape=4,4,4'
    )
  for field, (allowed, why) in REFUSED.items():
    section, name = field.split('.')
    if config[section][name] not in allowed:
      raise UserError(
        f'config.{field}={config[section][name]} in latents (latent.run): '
        f'{why}. Set it to {allowed[0]!r} (docs/latent_diffusion.md)'
      )
