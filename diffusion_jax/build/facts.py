"""Derives facts of a run from several sections of its config."""

from diffusion_jax.errors import UserError


def state_shape(config) -> tuple[int, ...]:
  """Returns the shape of what is diffused, without the batch.

  That of images, or of their latents (latent.run). Raises UserError where
  config.latent.shape is no shape.
  """
  c = config.latent
  if not c.run:
    return tuple(config.data.image_shape)
  shape = tuple(c.shape)
  if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
    raise UserError(
      f'config.latent.shape={shape}: give height, width and channels of the '
      'latents, such as --config.latent.shape=4,4,4'
    )
  return shape
