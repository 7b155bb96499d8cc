"""The devices of a run."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax.app.config import from_config
from diffusion_jax.runtime import sharding


def make_mesh(config: ConfigDict) -> Mesh:
  """Returns the mesh of config.training.mesh."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)
