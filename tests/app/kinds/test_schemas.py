"""The constructors of all sections."""

import pytest

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import schemas
from tests.app.conftest import read


@pytest.mark.parametrize('config', ['digits', 'digits_masked', 'digits_latent', 'moons_bridge'])
def test_the_sections_of_configs_are_listed_with_their_constructors(config):
  """Choices within them have fields too, such as training.average and data.source."""
  listed, config = {*schemas.constructors()}, read(config)
  inner = [x for x in config.values() if isinstance(x, Node)]
  inner += [x for section in inner for x in section.values() if isinstance(x, Node)]
  found = {(x.where, x.constructor) for x in inner if not x.where.startswith('evaluation.')}
  assert len(found) > 10 and found <= listed
