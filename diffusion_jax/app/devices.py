"""The devices of a run."""

from collections.abc import Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax.app.config import from_config
from diffusion_jax.runtime import sharding


def make_mesh(config: ConfigDict) -> Mesh:
  """Returns the mesh of config.training.mesh."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)


def attention_problems(config: ConfigDict, platform: str) -> Iterator[str]:
  """Yields the choice of attention that devices do not have."""
  if config.network.get('attention') == 'cudnn' and platform != 'gpu':
    yield (
      f'config.network.attention=cudnn needs a GPU, and this is {platform}: '
      'set it to auto'
    )
