"""Sets that TensorFlow Datasets prepared are read, and run no code of a stranger."""

import shutil
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import prepare, tfds_sources
from tests.data import archives
from tests.data.test_builders import pairs


@pytest.fixture(scope='module')
def by_tfds(tmp_path_factory):
  top = tmp_path_factory.mktemp('tfds')
  written = archives.cifar10(top / 'archive')
  archives.prepared_by_tfds(top, written)
  return top, written


def test_what_tfds_prepared_is_read_and_gives_the_same_batches(by_tfds, tmp_path, written):
  source = tfds_sources.cifar10('train', by_tfds[0])
  assert pairs(source.x, source.label) == pairs(*written['train'])
  ours = tfds_sources.cifar10('train', tmp_path)
  assert_array_equal(ours.x, source.x)
  assert_array_equal(ours.label, source.label)


def test_tfds(by_tfds, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # An import would fail.
  top, written = by_tfds
  source = tfds_sources.tfds('train', 'cifar10', (32, 32, 3), 10, top)
  assert (len(source), source.facts.num_classes) == (15, 10)
  images, labels = source.read(np.arange(15)).values()
  assert labels.dtype == np.int32
  assert source.facts.class_names == tuple(map(str, range(10)))
  assert pairs(images, labels) == pairs(*written['train'])
  half = tfds_sources.tfds('test', 'cifar10:3.0.2', data_dir=top, test_split='test[1:]')
  assert len(half) == 2 and half.facts.num_classes == 0
  arrays = half.read(np.array([1]))
  assert arrays.keys() == {'x'} and arrays['x'].shape == (1, 64, 64, 3)
  with pytest.raises(ValueError, match="no split 'val', but .*test"):
    tfds_sources.tfds('test', 'cifar10', data_dir=top, test_split='val')


def test_classes_of_others_are_not_imported(by_tfds, tmp_path, monkeypatch):
  """tfds would import the classes in features.json, in both its formats."""
  top = shutil.copytree(by_tfds[0], tmp_path / 'data')
  (tmp_path / 'own_feature.py').write_text('open("imported", "w").close()\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  [path] = top.rglob('features.json')
  text, of_tfds = path.read_text(), 'tensorflow_datasets.core.features.'
  assert f'"pythonClassName": "{of_tfds}' in text
  for found in (
    text.replace(of_tfds, 'own_feature.'),
    '{"type": "own_feature.Image", "content": {}}',
  ):
    path.write_text(found)
    for load in (
      lambda: tfds_sources.tfds('train', 'cifar10', data_dir=top),
      lambda: tfds_sources.cifar10('train', top),
      lambda: prepare.check_prepared(path.parent),
    ):
      with pytest.raises(ValueError, match='names own_feature.*tfds would imp'):
        load()
  assert not (tmp_path / 'imported').exists()


def test_a_damaged_record_file_is_named(by_tfds, tmp_path):
  shutil.copytree(by_tfds[0] / 'cifar10', tmp_path / 'cifar10')
  [path] = (tmp_path / 'cifar10' / '3.0.2').glob('*train*array_record*')
  whole = tfds_sources.cifar10('train', tmp_path).x
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match='cifar10/3.0.2 is damaged; delete it'):
    tfds_sources.cifar10('train', tmp_path)
  named = 0
  for place in range(1000, len(data), 4999):
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    source = tfds_sources.tfds('train', 'cifar10', (32, 32, 3), data_dir=tmp_path)
    try:
      source.read(np.arange(15))
      assert_array_equal(tfds_sources.cifar10('train', tmp_path).x, whole)
    except ValueError as error:
      assert 'cifar10/3.0.2 is damaged; delete it' in str(error)
      named += 1
  assert named > 5
