"""What a user's own network and data must be, which other fields do not ask for.

app/config/test_user_parts.py has what is asked of every part.
"""

import pytest
from flax import linen as nn

from diffusion_jax.app.config import trust
from tests.app.config.test_user_parts import TOY, found, nothing_is_allowed
from tests.app.conftest import refused

__all__ = ['nothing_is_allowed']  # a fixture of each test


class NoTrain(nn.Module):
  takes = ('label',)

  def __call__(self, x, noise, cond=None):
    return x


class NoCond(nn.Module):
  def __call__(self, x, noise, *, train=False):
    return x


def test_a_network_takes_what_every_network_is_called_with():
  for part, wrong in ((NoTrain, "keyword argument 'train'"), (NoCond, 'many po')):
    trust.allow([name := f'{__name__}:{part.__name__}'])
    message = r'__call__ must take \(x, noise, cond, \*, train\): .*' + wrong
    refused(message, found, 'network', name, ('in_channels',))
  trust.allow([f'{TOY}:Network'])
  found('network', f'{TOY}:Network', ('in_channels',))


def numbers(rng, n):
  return {'x': rng.normal(size=(n, 2))}


@pytest.mark.parametrize('path', ['data', 'data.source'])
def test_a_simulator_is_data_and_the_source_of_data(path):
  trust.allow([f'{__name__}:numbers'])
  source = found(path, f'{__name__}:numbers', ())(split='test', num_test=3)
  assert len(source) == 3
