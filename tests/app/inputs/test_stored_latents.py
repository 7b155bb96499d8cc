"""Stored latents are the latents of their images, and are refused for another autoencoder."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.app.inputs import datasets, stored_latents
from diffusion_jax.data import pipeline
from tests.app.conftest import refused, trial
from tests.app.fields import within

SPLITS = 'train', 'validation', 'test'


def config_of(path, **changes):
  fields = within('latent', path=path) | within('training', random_flip=True)
  fields |= within('data', validation_fraction=0.2)
  return trial('digits_latent', **fields | changes)


def parts_of(path, split='train'):
  config = config_of(path)
  return config, datasets.facts_of(config), datasets.source_of(config, split), split


@pytest.fixture
def stored(tmp_path):
  """Stores latents 1x1x1 whose mean is the image's number, mirrored + 0.5."""
  path = tmp_path / 'latents'
  path.mkdir()
  record = {'autoencoder': 3, 'mirrored': True}
  for split, prefix in zip(SPLITS, ('', 'validation_', 'test_'), strict=True):
    config, facts, images, _ = parts_of(path, split)
    record[split] = stored_latents.contents(config, facts, images)
    mean = np.arange(len(images))[:, None] + [0.0, 0.5]
    x = np.stack([mean, np.full_like(mean, 2.0)], axis=-1).astype(np.float32)
    np.save(path / f'{prefix}x.npy', x[:, None, :, None])
    np.save(path / f'{prefix}label.npy', images.read(np.arange(len(images)))['label'])
  (path / 'latents.json').write_text(json.dumps(record))
  return path


@pytest.mark.parametrize('split', SPLITS)
def test_batches_of_latents_are_those_of_the_images(stored, split):
  """Batches of latents have the order, labels and mirror images of the batches of images."""
  config, facts, images, _ = parts_of(stored, split)
  latents, of_latents = stored_latents.examples_of(config, facts, images, split)
  pixels = images.read(np.arange(len(images)))['x']
  for step in (0, 70):
    batch = pipeline.batch_at(images, 30, 5, step, True, facts=facts)
    ours = pipeline.batch_at(latents, 30, 5, step, True, facts=of_latents)
    number, mirrored = np.divmod(ours['x'][:, 0, 0, 0, 0], 1.0)
    expected = facts.x.encode(pixels[number.astype(int)])
    flip = mirrored == 0.5
    assert 0 < flip.sum() < 30
    expected[flip] = expected[flip, :, ::-1]
    assert_array_equal(batch['x'], expected)
    assert_array_equal(ours['label'], batch['label'])
    assert (ours['x'][..., 1] == 2.0).all()


def recorded(**changes):
  """Returns a function that changes latents.json of a folder."""

  def change(path):
    record = json.loads((path / 'latents.json').read_text())
    (path / 'latents.json').write_text(json.dumps(record | changes))

  return change


def cut(path):
  with (path / 'x.npy').open('r+b') as file:
    file.truncate((path / 'x.npy').stat().st_size - 10)


def shorten(path):
  np.save(path / 'label.npy', np.load(path / 'label.npy')[1:])


@pytest.mark.parametrize(
  'change, message',
  [
    (recorded(train={'x': {'shape': [16]}}), r'train.x.shape is \[16\], \[8, 8, 1\] now'),
    (recorded(train={}), 'has other latents: train.checksum is absent, '),
    (recorded(mirrored=False), 'mirrored is False, True now.* --mode=encode and another'),
    (cut, 'x.npy is not a .npy file'),
    (shorten, 'must have x and others with 1150 rows'),
    (shutil.rmtree, 'has no latents.json: --mode=encode writes'),
    (lambda path: (path / 'latents.json').write_text('{'), 'latents.json cannot be read'),
  ],
)
def test_latents_that_do_not_fit_are_refused(stored, change, message):
  change(stored)
  refused(message, stored_latents.examples_of, *parts_of(stored))


def test_a_checksum_is_of_one_autoencoder(stored):
  stored_latents.check_record(stored, {'autoencoder': 3})
  refused('autoencoder is 3, 4 now', stored_latents.check_record, stored, {'autoencoder': 4})
