"""CIFAR-10 and MNIST from their official files."""

import numpy as np
import pytest

from diffusion_jax.data import prepare, tfds_sources
from diffusion_jax.data.builders import CIFAR10Arrays, MNISTArrays
from tests.data import archives

SETS = {
  'cifar10': (archives.cifar10, CIFAR10Arrays, tfds_sources.cifar10),
  'mnist': (archives.mnist, MNISTArrays, tfds_sources.mnist),
}


def pairs(images, labels):
  return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize('name', SETS)
def test_pixel_for_pixel_from_the_official_format(name, tmp_path, manual, no_network, accept):
  write, builder, load = SETS[name]
  written = write(manual)
  accept(manual, builder.URLS)
  for split in ('train', 'test'):
    source = load(split, tmp_path)
    images, labels = written[split]
    assert source.x.shape == images.shape
    assert source.x.dtype == np.uint8 and source.label.dtype == np.int32
    assert (source.facts.num_classes, source.facts.x.levels) == (10, 256)
    assert pairs(source.x, source.label) == pairs(images, labels)
  with pytest.raises(ValueError, match="'valid' is not one of"):
    load('valid', tmp_path)


def test_the_checksums_of_mnist_are_the_official_ones():
  """The sizes are published on its mirrors; CIFAR-10's: test_prepare.py."""
  from tensorflow_datasets.core.download import checksums

  table = checksums.get_all_url_infos()
  assert [int(table[url].size) for url in MNISTArrays.URLS] == [9_912_422, 28_881, 1_648_877, 4_542]
  assert prepare.NAMES == ('cifar10', 'mnist')
