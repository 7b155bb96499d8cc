"""Families of models: each a tuple of the same functions, chosen here."""

from diffusion_jax.build.network import MAPS, init_shapes
from diffusion_jax.families import classifier, diffusion, flow_map, latent, vae
from diffusion_jax.families.family import Family

# Families by config.objective.name; all others are of diffusion models.
BY_OBJECTIVE = {
  'classifier': classifier.FAMILY,
  'vae': vae.FAMILY,
  'hvae': vae.FAMILY,
  **dict.fromkeys(MAPS, flow_map.FAMILY),
}


def of(config) -> Family:
  """Returns the family of a config's models."""
  default = latent.FAMILY if config.latent.run else diffusion.FAMILY
  return BY_OBJECTIVE.get(config.objective.name, default)


def abstract_params(config):
  """Returns the shapes of the parameters of the run."""
  return init_shapes(of(config).init(config))


# names of all metrics
METRICS = tuple(
  dict.fromkeys(
    name
    for module in (diffusion, vae, classifier)
    for name in module.FAMILY.metrics
  )
)
