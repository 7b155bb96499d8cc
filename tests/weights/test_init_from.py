"""Names and shapes of the weights that a training begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.training.state import init_state
from diffusion_jax.weights import init_from, share


def layers(**shapes):
  return {'network': {name: jnp.zeros(shape) for name, shape in shapes.items()}}


@pytest.fixture
def run(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  share.write(tmp_path, jax.tree.map(lambda x: x + 1, layers(a=(2,), b=(2,), old=(1,))), 7)
  return str(tmp_path)


def test_leaves_that_fit_are_taken_and_the_others_are_named(run, capsys):
  params = layers(a=(2,), b=(3,))
  state = init_state(params, optax.sgd(1.0))
  state = init_from.read(params, run)(state)
  for tree in (state.params, state.ema_params):
    np.testing.assert_array_equal(tree['network']['a'], [1, 1])
    np.testing.assert_array_equal(tree['network']['b'], [0, 0, 0])
  said = '1 of 2 leaves; initialized: network/b [3] ([2] there); not used: network/old\n'
  assert capsys.readouterr().out.endswith(said)


def test_another_network_and_no_run_are_refused(run, tmp_path):
  with pytest.raises(UserError, match=r'init_from: .* 2 of 3 leaves do not fit, such as net'):
    init_from.read(layers(a=(2,), c=(3,), d=(1,)), run)
  with pytest.raises(UserError, match='config.training.init_from: .* no checkpoint'):
    init_from.read(layers(a=(2,)), str(tmp_path / 'none'))
