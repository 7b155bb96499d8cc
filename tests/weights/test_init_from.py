"""Names and shapes of the weights that a training begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.app import devices
from diffusion_jax.app.train_loop.setup import prepare, state_maker
from diffusion_jax.errors import UserError
from diffusion_jax.training.state import init_state
from diffusion_jax.weights import init_from, share
from tests.app.conftest import assert_same, params_of, trial, untrained
from tests.app.models.test_flow_map import config_of


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


def test_new_inputs_begin_afresh_and_say_so(tmp_path, capsys):
  """A run of flow matching becomes MeanFlow: elapsed time is added."""
  teacher = untrained(trial('digits_flow', 'unscaled', small=True), tmp_path / 'teacher')
  config = config_of({'objective': 'mean_flow'})
  parts = prepare(config, 'nowhere')
  make_state, _ = state_maker(
    parts.model, parts.objective, parts.optimizer, devices.make_mesh(config)
  )
  first = make_state()
  state = init_from.read(first.params, str(teacher))(first)
  printed = capsys.readouterr().out
  layers = [f'elapsed_dense_{i}' for i in (1, 2)]
  for layer in layers:
    for leaf in ('kernel', 'bias'):
      assert f'network/{layer}/{leaf}' in printed
  assert printed.count(' [') == 4 and printed.count('weights of') == 1
  ours, before = state.params['network'], first.params['network']
  for layer in layers:
    assert_same(ours[layer], before[layer])
  rest = {name: x for name, x in ours.items() if name not in layers}
  assert_same(rest, params_of(teacher)['network'])
