"""base.safetensors of somebody else's run: what is said of each damage."""

import os

import numpy as np
import pytest

from diffusion_jax.interop.files import write_safetensors
from diffusion_jax.weights import adapters
from tests.refusals import one_line

KERNEL = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
BASE = {'network': {'dense': {'kernel': KERNEL, 'bias': np.ones(3, np.float32)}}}
DOWN, UP = np.ones((2, 1), np.float32), np.float32([[1, 0, -1]])
ADAPTERS = {'network': {'lora_A': {'dense': {'kernel': DOWN}}, 'lora_B': {'dense': {'kernel': UP}}}}


def test_adapters_are_merged_with_the_base_of_their_run(tmp_path):
  adapters.write(tmp_path, BASE, 1.5)
  merged = adapters.merged(tmp_path, ADAPTERS)['network']['dense']
  np.testing.assert_allclose(merged['kernel'], KERNEL + 1.5 * DOWN @ UP)
  np.testing.assert_array_equal(merged['bias'], np.ones(3))
  assert adapters.merged(tmp_path / 'none', BASE) is BASE


def other(layers):
  return lambda path: adapters.write(path.parent, {'network': layers}, 1.5)


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
    (lambda path: adapters.write(path.parent, {}, np.nan), 'was not written by a training'),
    (lambda path: path.write_bytes(path.read_bytes()[:-4] + b'1234'), 'is damaged'),
    (os.unlink, 'base.safetensors is missing'),
    (other({'conv': {'kernel': KERNEL}}), 'of another network'),
    (other({'dense': {'kernel': KERNEL[:, ::2]}}), 'of another network'),
  ],
)
def test_base_weights_of_a_stranger_are_refused(change, message, tmp_path):
  adapters.write(tmp_path, BASE, 1.5)
  change(adapters.path_of(tmp_path))
  with one_line('base.safetensors', message):
    adapters.merged(tmp_path, ADAPTERS)
