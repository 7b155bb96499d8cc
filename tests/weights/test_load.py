"""One door to the weights of a run and of a shared folder."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.interop.weight_files import write_safetensors
from diffusion_jax.training.state import init_state
from diffusion_jax.weights import checkpoints, load, share
from tests.refusals import one_line
from tests.weights.test_checkpoints import equal


def test_adapters_are_merged_unless_they_are_wanted(tmp_path):
  checkpoints.save_params(tmp_path, 4, ADAPTERS, {})
  equal(load.open(tmp_path, merge=False).params, ADAPTERS)
  with pytest.raises(ValueError, match='base.safetensors is missing'):
    load.open(tmp_path)
  load.write_base(tmp_path, BASE, 1.0)
  kernel = load.open(tmp_path).params['network']['dense']['kernel']
  assert_array_equal(kernel, [[1, 1, 1], [4, 4, 4]])


KERNEL = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
BASE = {'network': {'dense': {'kernel': KERNEL, 'bias': np.ones(3, np.float32)}}}
DOWN, UP = np.ones((2, 1), np.float32), np.float32([[1, 0, -1]])
ADAPTERS = {'network': {'lora_A': {'dense': {'kernel': DOWN}}, 'lora_B': {'dense': {'kernel': UP}}}}


def other(layers):
  return lambda path: load.write_base(path.parent, {'network': layers}, 1.5)


UNREAD = 'cannot be read as safetensors'
CLASH = {'a': np.zeros(2), 'a/b': np.zeros(2)}


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda path: os.truncate(path, 100), UNREAD),
    (lambda path: path.write_bytes((2**62).to_bytes(8, 'little') + b'{}'), UNREAD),
    (lambda path: path.write_text('hello'), UNREAD),
    (lambda path: os.truncate(path, 0), UNREAD),
    (lambda path: write_safetensors(path, CLASH), 'cannot be read as weights'),
    (lambda path: load.write_base(path.parent, {}, np.nan), 'was not written by a training'),
    (lambda path: path.write_bytes(path.read_bytes()[:-4] + b'1234'), 'is damaged'),
    (os.unlink, 'base.safetensors is missing'),
    (other({'conv': {'kernel': KERNEL}}), 'of another network'),
    (other({'dense': {'kernel': KERNEL[:, ::2]}}), 'of another network'),
  ],
)
def test_base_weights_of_a_stranger_are_refused(change, message, tmp_path):
  load.write_base(tmp_path, BASE, 1.5)
  change(load.base_path(tmp_path))
  with one_line('base.safetensors', message):
    load.merged(tmp_path, ADAPTERS)


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
  state = load.begin_from(params, run)(state)
  for tree in (state.params, state.ema_params):
    assert_array_equal(tree['network']['a'], [1, 1])
    assert_array_equal(tree['network']['b'], [0, 0, 0])
  said = '1 of 2 leaves; initialized: network/b [3] ([2] there); not used: network/old\n'
  assert capsys.readouterr().out.endswith(said)


def test_another_network_and_no_run_are_refused(run, tmp_path):
  with pytest.raises(ValueError, match=r'.* 2 of 3 leaves do not fit, such as net'):
    load.begin_from(layers(a=(2,), c=(3,), d=(1,)), run)
  with pytest.raises(OSError, match='no checkpoint'):
    load.begin_from(layers(a=(2,)), str(tmp_path / 'none'))
