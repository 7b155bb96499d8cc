import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.training import checksums, shared, stored_weights
from tests import damage

PARAMS = {
  'network': {'dense': {'kernel': np.float32([[0, 1, 2], [3, 4, 5]])}},
  'scale': np.float32(3.0),
}  # fmt: skip
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 3}')
  shared.write(tmp_path, PARAMS, 70)
  return tmp_path


def test_the_weights_are_read_as_a_checkpoint(folder):
  theirs = safetensors.numpy.load_file(folder / shared.NAME)
  assert theirs.keys() == {'network/dense/kernel', 'scale'}
  for step in ('latest', 70):
    assert stored_weights.find_step(folder, step) == 70
    params, config = stored_weights.restore_params(folder, True, SHAPES, step)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert config == {'seed': 3}


@pytest.mark.parametrize('ema, checkpoint, message', [
  (False, 'latest', 'has one set of weights'),
  ('0.99', 'latest', 'has one set of weights'),
  (True, 'best', 'the weights of step 70, and no checkpoint best'),
  (True, 3, 'the weights of step 70, and no checkpoint 3'),
])  # fmt: skip
def test_there_are_no_other_weights(ema, checkpoint, message, folder):
  with pytest.raises(FileNotFoundError, match=message):
    stored_weights.restore_params(folder, ema, None, checkpoint)


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
  DAMAGED[how](folder / shared.NAME)
  if not sums:
    (folder / 'SHA256SUMS').unlink()
  if how == 'flip' and not sums:  # Only the sums can tell.
    shared.read(folder)
    assert 'has no SHA256SUMS: it is read unchecked' in capsys.readouterr().err
    return
  with pytest.raises(ValueError, match='model.safetensors') as error:
    stored_weights.restore_params(folder)
  assert '\n' not in str(error.value)


def test_sums_without_a_line_of_the_weights_are_no_sums_of_them(folder):
  checksums.write_sums(folder, {'config.json': '0' * 64})
  with pytest.raises(ValueError, match='safetensors is not what was written'):
    shared.read(folder)


def test_weights_of_another_network_are_refused(folder):
  other = {'network': {}, 'scale': SHAPES['scale']}
  with pytest.raises(ValueError, match=r'/dense/kernel is \[2, 3\] there'):
    stored_weights.restore_params(folder, True, other)


def test_checkpoints_come_first(folder):
  (folder / 'checkpoints').mkdir()
  assert not shared.exist(folder)


def test_the_record_of_a_step_is_metadata(folder):
  size = int.from_bytes((folder / shared.NAME).read_bytes()[:8], 'little')
  head = json.loads((folder / shared.NAME).read_bytes()[8 : 8 + size])
  assert head['__metadata__'] == {'step': '70'}
