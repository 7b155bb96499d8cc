"""The weights of another run, where they fit."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.app import devices, models
from diffusion_jax.app.train_loop import setup
from diffusion_jax.app.train_loop.setup import prepare, state_maker
from diffusion_jax.interop import diffusers
from diffusion_jax.training import first_weights
from tests.app.conftest import (
  assert_same,
  params_of,
  trial,
  untrained,
)
from tests.app.models.test_flow_map import config_of
from tests.app.modes.test_convert import AGAIN, STORED, read, to_train


def test_other_classes_and_channels_begin_afresh(tmp_path, capsys):
  """The leaves that do not fit are named with both shapes."""
  run = read(tmp_path / 'run', STORED / 'labels')
  other = {'data.image_shape': (4, 4, 3), 'data.num_classes': 5}
  config = to_train(run, **AGAIN | other)
  model: Any = models.make(config, 'none')
  mesh = devices.make_mesh(config)
  facts = {'total_steps': config.training.num_steps}
  optimizer, _ = config.optimizer.make(facts)
  objective = model.objective()
  _, shapes = setup.state_maker(model, objective, optimizer, mesh)
  # other than zeros everywhere, and without a compilation
  fresh = jax.tree.map(lambda x: jax.device_put(np.full(x.shape, 3, x.dtype), x.sharding), shapes)
  state = first_weights.read(shapes.params, str(run))(fresh)
  printed = capsys.readouterr().out
  afresh = {
    'conv_in/kernel [3, 3, 3, 8] ([3, 3, 1, 8] there)',
    'conv_out/bias [3] ([1] there)',
    'conv_out/kernel [3, 3, 8, 3] ([3, 3, 8, 1] there)',
    'label_embedding/table/embedding [5, 32] ([3, 32] there)',
  }
  assert all(f'network/{leaf}' in printed for leaf in afresh)
  assert printed.count(' there)') == len(afresh)
  expected = diffusers.load(STORED / 'labels').params
  for tree in (state.params, state.ema_params):
    network = tree['network']
    assert_same(network['noise_dense_1'], expected['noise_dense_1'])
    assert_same(network['conv_in']['bias'], expected['conv_in']['bias'])
    assert_same(network['conv_out'], fresh.params['network']['conv_out'])
  assert_same(state.opt_state, fresh.opt_state)


def test_new_inputs_begin_afresh_and_say_so(tmp_path, capsys):
  """A run of flow matching becomes MeanFlow: elapsed time is added."""
  teacher = untrained(trial('digits_flow', 'unscaled', small=True), tmp_path / 'teacher')
  config = config_of({'objective': 'mean_flow'})
  parts = prepare(config, 'nowhere')
  make_state, _ = state_maker(
    parts.model, parts.objective, parts.optimizer, devices.make_mesh(config)
  )
  first = make_state()
  state = first_weights.read(first.params, str(teacher))(first)
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
