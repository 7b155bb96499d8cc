"""config.data: every source is reached, every mistake is one line."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import cifar10, images64, mnist, photos
from diffusion_jax import build
from diffusion_jax.build import data
from diffusion_jax.errors import UserError
from tests.programs.conftest import unet_smoke as smoke

ROOT = pathlib.Path(__file__).parents[2]


def test_data_that_contradict_the_config_are_refused():
  changes = {'data.num_levels': 256, 'data.image_shape': (8, 8, 3)}
  message = (
    'config.data: digits needs --config.data.image_shape=8,8,1 '
    r'\(not \(8, 8, 3\)\) --config.data.num_levels=17 \(not 256\)$'
  )
  with pytest.raises(UserError, match=message):
    build.build_source(smoke(**changes))


def small(**changes):
  changes = {'data.image_shape': (8, 8, 3), 'data.num_classes': 0} | changes
  return smoke(**{'data.num_levels': 256} | changes)


@pytest.fixture
def pictures(tmp_path):
  """A folder with two classes of three pictures, and the same as npz."""
  rng = np.random.default_rng(0)
  for name in 'ab':
    (tmp_path / name).mkdir()
    for i in range(3):
      picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(picture).save(tmp_path / name / f'{i}.png')
  images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  np.savez(tmp_path / 'x.npz', images=images, labels=np.arange(6) % 2)
  return tmp_path


def test_every_source_of_ones_own_reaches_its_function(pictures):
  folder_of = {'data.name': 'folder', 'data.path': str(pictures)}
  npz = {'data.name': 'npz', 'data.path': str(pictures / 'x.npz')}
  photo = (str(pictures / 'a' / '0.png'),)
  crops = {'data.name': 'photos', 'data.photos': photo}
  for fields, size in ((folder_of, 6), (npz, 6), (crops, 1)):
    assert len(build.build_source(small(**fields))) == size
  for fields in (folder_of, npz):
    source = build.build_source(small(**fields, **{'data.num_classes': 2}))
    assert (len(source), source.num_classes) == (6, 2)
    with pytest.raises(UserError, match='config.data: .* has no test split'):
      build.build_source(small(**fields), 'test')
  half = {'data.test_fraction': 0.5}
  assert len(build.build_source(small(**npz, **half), 'test')) == 3
  shrunk = crops | {'data.photo_shrink': 2, 'data.image_shape': (4, 2, 3)}
  assert len(build.build_source(small(**shrunk))) == 3
  shrunk |= half
  assert len(build.build_source(small(**shrunk), 'test')) == 1


@pytest.mark.parametrize(
  'name, message',
  [
    ('folder', 'config.data: which folder. Give --config.data.path='),
    ('npz', 'config.data: which file.npz. Give --config.data.path='),
    ('tfds', 'config.data: which set. Give --config.data.tfds_name='),
  ],
)
def test_a_source_without_its_path_says_which_field(name, message):
  with pytest.raises(UserError, match=message):
    build.build_source(small(**{'data.name': name}))
  if name == 'folder':
    with pytest.raises(UserError, match=message):
      build.build_source(images64.get_config())


def test_the_number_of_classes_to_set_is_said(pictures):
  fields = {'data.name': 'folder', 'data.path': str(pictures)}
  message = r'folder needs --config.data.num_classes=2 \(not 3\)$'
  with pytest.raises(UserError, match=message):
    build.build_source(small(**fields, **{'data.num_classes': 3}))


def test_a_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
  """cifar10, mnist and the catalogue, with data_dir from the config."""
  import requests

  def refuse(*args, **kwargs):
    raise requests.ConnectionError

  monkeypatch.setattr(requests, 'head', refuse)
  there = {'data.data_dir': str(tmp_path), 'data.tfds_name': 'celeb_a'}
  for name in ('cifar10', 'mnist', 'tfds'):
    fields = there | {'data.name': name}
    with pytest.raises(UserError, match=f'config.data: .*{tmp_path}') as error:
      build.build_source(small(**fields))
    assert '\n' not in str(error.value)


def test_a_damaged_file_ends_training_in_one_line(pictures):
  (pictures / 'a' / '0.png').write_bytes(b'not a picture')
  fields = {'data.name': 'folder', 'data.path': str(pictures)}
  config = small(**fields, **{'training.batch_size': 6})
  batches = build.build_batches(config, build.build_source(config))
  with pytest.raises(UserError, match='config.data: .*a/0.png is not an image'):
    next(batches)


def test_every_source_is_documented():
  text = (ROOT / 'docs' / 'data.md').read_text()
  for name in data.SOURCES:
    assert f'`{name}`' in text


def test_smoke_needs_no_files():
  for module in (cifar10, mnist, images64):
    assert module.get_config('smoke').data.name == 'synthetic'
  assert photos.get_config('smoke').data.name == 'photos'
