"""The devices of a run."""

from collections.abc import Iterator

from jax.sharding import Mesh

from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.errors import refuse
from diffusion_jax.runtime import sharding


def make_mesh(config: Node) -> Mesh:
  """Returns the mesh of config.training.mesh.

  Raises UserError if its devices do not have what the config chooses.
  """
  with from_config('training.mesh'):
    mesh = sharding.make_mesh(*config.training.mesh)
  refuse(attention_problems(config, mesh))
  return mesh


def attention_problems(config: Node, mesh: Mesh) -> Iterator[str]:
  """Yields the choice of attention that the mesh's devices do not have."""
  platform = sharding.platform_of(mesh)
  if config.network.get('attention') == 'cudnn' and platform != 'gpu':
    yield (
      f'config.network.attention=cudnn needs a GPU, and this is {platform}: '
      'set it to auto'
    )
