"""tfds builders of CIFAR-10 and MNIST that do not need TensorFlow.

The builders of tfds extract archives and write PNG files with TensorFlow. These
read the official archives directly and store plain arrays; tfds downloads,
compares with its official checksums, and writes array_record files.
"""

import gzip
import tarfile

import numpy as np
import tensorflow_datasets as tfds


class CIFAR10Arrays(tfds.core.GeneratorBasedBuilder):
  """Builds CIFAR-10 (Krizhevsky 2009) from its binary archive."""

  name = 'cifar10_arrays'
  VERSION = tfds.core.Version('1.0.0')
  URLS = ('https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',)

  def _info(self):
    return _info(self, (32, 32, 3), 'https://www.cs.toronto.edu/~kriz/cifar.html')

  def _split_generators(self, dl_manager):
    path = dl_manager.download(self.URLS[0])
    train = [f'data_batch_{i}.bin' for i in range(1, 6)]
    return {
      'train': self._generate_examples(path, train),
      'test': self._generate_examples(path, ['test_batch.bin']),
    }

  def _generate_examples(self, path, names):
    # An image is stored as its label and 32x32 R, G and B.
    key = 0
    with tarfile.open(path) as archive:
      for name in names:
        file = archive.extractfile(f'cifar-10-batches-bin/{name}')
        assert file is not None  # The members are regular files.
        records = np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        for record in records:
          image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
          yield key, {'image': image, 'label': record[0]}
          key += 1


class MNISTArrays(tfds.core.GeneratorBasedBuilder):
  """Builds MNIST (LeCun, Cortes and Burges) from its four IDX files."""

  name = 'mnist_arrays'
  VERSION = tfds.core.Version('1.0.0')
  URLS = tuple(
    f'https://storage.googleapis.com/cvdf-datasets/mnist/{part}-ubyte.gz'
    for split in ('train', 't10k')
    for part in (f'{split}-images-idx3', f'{split}-labels-idx1')
  )

  def _info(self):
    return _info(self, (28, 28, 1), 'http://yann.lecun.com/exdb/mnist')

  def _split_generators(self, dl_manager):
    paths = [dl_manager.download(url) for url in self.URLS]
    return {
      'train': self._generate_examples(*paths[:2]),
      'test': self._generate_examples(*paths[2:]),
    }

  def _generate_examples(self, image_path, label_path):
    images, labels = _read_idx(image_path), _read_idx(label_path)
    for key, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield key, {'image': image[..., None], 'label': label}


def _info(builder, shape, homepage):
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Tensor(shape=shape, dtype=np.uint8),
      'label': tfds.features.ClassLabel(num_classes=10),
    }
  )
  return tfds.core.DatasetInfo(builder=builder, features=features, homepage=homepage)


def _read_idx(path) -> np.ndarray:
  """Reads IDX: two zeros, a type (8: uint8), the rank, the shape, the data."""
  with gzip.open(path) as file:
    data = file.read()
  shape = np.frombuffer(data, '>u4', count=data[3], offset=4)
  return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
