"""The devices of a run, and how programs are compiled for them."""

from jax.sharding import Mesh

from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import sharding
from diffusion_jax.runtime.compiling import Effort

SHORT = 2000  # Steps of a training that compiles for longer than it gains.


def make_mesh(config: Node) -> Mesh:
  """Returns the mesh of config.training.mesh.

  Raises UserError if its devices do not have what the config chooses.
  """
  with from_config('training.mesh'):
    mesh = sharding.make_mesh(*config.training.mesh)
  check_attention(config, mesh)
  return mesh


def effort(config: Node) -> Effort:
  """Returns how XLA compiles the programs of a run, by training.compile."""
  c = config.training
  if c.compile != 'auto':
    return c.compile
  return 'fast' if c.num_steps <= SHORT else 'tuned'


def check_attention(config: Node, mesh: Mesh) -> None:
  """Raises UserError if the mesh's devices do not have network.attention."""
  platform = sharding.platform_of(mesh)
  if config.network.get('attention') == 'cudnn' and platform != 'gpu':
    raise UserError(
      f'config.network.attention=cudnn needs a GPU, and this is {platform}: set it to auto'
    )
