"""Families of models: each a tuple of the same functions, chosen here."""

from diffusion_jax.build.network import is_vae
from diffusion_jax.families import classifier, diffusion, latent, vae
from diffusion_jax.families.family import Family


def of(config) -> Family:
  """Returns the family of a config's models."""
  if config.objective.name == 'classifier':
    return classifier.FAMILY
  if is_vae(config):
    return vae.FAMILY
  return latent.FAMILY if config.latent.run else diffusion.FAMILY


# names of all metrics
METRICS = tuple(
  dict.fromkeys(
    name
    for module in (diffusion, vae, classifier)
    for name in module.FAMILY.metrics
  )
)
