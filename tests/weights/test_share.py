"""One file of weights that is shared, read like a checkpoint."""

import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal

from diffusion_jax.runtime.run_folder import SHARED, RunFolder
from diffusion_jax.weights import checksums, load, share
from tests import damage
from tests.refusals import one_line

PARAMS = {
  'network': {'dense': {'kernel': np.float32([[0, 1, 2], [3, 4, 5]])}},
  'scale': np.float32(3.0),
}
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 3}')
  share.write(tmp_path, PARAMS, 70)
  return tmp_path


def test_the_weights_are_read_as_a_checkpoint(folder):
  with safetensors.safe_open(folder / SHARED, 'numpy') as file:
    assert {*file.keys()} == {'network/dense/kernel', 'scale'}
    assert file.metadata() == {'step': '70'}
  for step in ('latest', 70):
    params, config, found = load.open(folder, step=step, target=SHAPES)
    jax.tree.map(assert_array_equal, params, PARAMS)
    assert config == {'seed': 3} and found == 70


FEW = {'network': {}, 'scale': SHAPES['scale']}
LOST = 'the weights of step 70, and no checkpoint'


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    (('raw',), FileNotFoundError, 'has one set of weights'),
    (('0.99',), FileNotFoundError, 'has one set of weights'),
    (('average', 'best'), FileNotFoundError, f'{LOST} best'),
    (('average', 3), FileNotFoundError, f'{LOST} 3'),
    (('average', 'latest', FEW), ValueError, r'/dense/kernel is \[2, 3\] there'),
  ],
)
def test_there_are_no_other_weights(arguments, error, message, folder):
  with pytest.raises(error, match=message):
    load.open(folder, *arguments)


ONE, STEP = np.zeros(1), {'step': '1'}
store = safetensors.numpy.save_file
DAMAGED = {
  'cut': damage.cut,
  'flip': lambda path: damage.flip(path, -1),  # of a number behind the header
  'pickle': lambda path: path.write_bytes(b'\x80\x04\x95' + bytes(64)),
  'zip': lambda path: path.write_bytes(b'PK\x03\x04' + bytes(64)),  # torch's
  'contradiction': lambda path: store({'a': ONE, 'a/b': ONE}, path, STEP),
  'no step': lambda path: store({'a': ONE}, path),
  'pipe': lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize('sums', [True, False])
@pytest.mark.parametrize('how', DAMAGED)
def test_a_damaged_file_is_one_line(how, sums, folder, capsys):
  DAMAGED[how](folder / SHARED)
  if not sums:
    (folder / 'SHA256SUMS').unlink()
  if how == 'flip' and not sums:  # Only the sums can tell.
    share.read(folder)
    assert 'has no SHA256SUMS: it is read unchecked' in capsys.readouterr().err
    return
  with one_line('model.safetensors'):
    load.open(folder)


def test_sums_without_a_line_of_the_weights_are_no_sums_of_them(folder):
  checksums.write_sums(folder, {'config.json': '0' * 64})
  with pytest.raises(ValueError, match='safetensors is not what was written'):
    share.read(folder)


def test_checkpoints_come_first(folder):
  (folder / 'checkpoints').mkdir()
  assert not RunFolder.at(folder).is_shared
