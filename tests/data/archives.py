"""Small CIFAR-10 and MNIST archives in the official formats."""

import gzip
import io
from pathlib import Path

import numpy as np

from tests.data import encoded

PER_FILE = 3  # CIFAR-10 pictures per file


def cifar10(folder: Path):
  rng = np.random.default_rng(0)
  files = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
  pictures = rng.integers(0, 256, (6, PER_FILE, 32, 32, 3), np.uint8)
  labels = rng.integers(0, 10, (6, PER_FILE), np.uint8)
  labels[:, 0] = 9
  folder.mkdir(parents=True, exist_ok=True)
  planes = pictures.transpose(0, 1, 4, 2, 3).reshape(6, PER_FILE, -1)  # R, G, B
  records = np.concatenate([labels[..., None], planes], axis=2)
  members = [('batches.meta.txt', b'airplane\nautomobile\n')]
  members += zip(files, map(bytes, records), strict=True)
  inside = [(f'cifar-10-batches-bin/{name}', data) for name, data in members]
  encoded.tar(folder / 'cifar-10-binary.tar.gz', inside, 'w:gz')
  return {
    split: (pictures[part].reshape(-1, 32, 32, 3), labels[part].ravel())
    for split, part in (('train', slice(5)), ('test', slice(5, 6)))
  }


def mnist(folder: Path):
  rng = np.random.default_rng(1)
  folder.mkdir(parents=True, exist_ok=True)
  sets = {}
  for split, prefix, size in (('train', 'train', 7), ('test', 't10k', 4)):
    images = rng.integers(0, 256, (size, 28, 28), np.uint8)
    labels = rng.integers(0, 10, size, np.uint8)
    with gzip.open(folder / f'{prefix}-images-idx3-ubyte.gz', 'wb') as file:
      file.write(bytes([0, 0, 8, 3, 0, 0, 0, size, 0, 0, 0, 28, 0, 0, 0, 28]))
      file.write(images.tobytes())
    with gzip.open(folder / f'{prefix}-labels-idx1-ubyte.gz', 'wb') as file:
      file.write(bytes([0, 0, 8, 1, 0, 0, 0, size]) + labels.tobytes())
    sets[split] = images[..., None], labels
  return sets


def prepared_by_tfds(data_dir: Path, sets) -> Path:
  """Writes the sets as tfds' own cifar10; their PNGs are not by TensorFlow."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import registered

  with registered.skip_registration():

    class Cifar10(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('3.0.2')

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self,
          features=tfds.features.FeaturesDict(
            {
              'id': tfds.features.Text(),
              'image': tfds.features.Image(shape=(32, 32, 3)),
              'label': tfds.features.ClassLabel(num_classes=10),
            }
          ),
        )

      def _split_generators(self, dl_manager):
        return {s: self._generate_examples(s, *sets[s]) for s in sets}

      def _generate_examples(self, split, images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
          png = io.BytesIO(encoded.png(image))
          yield i, {'id': f'{split}_{i:05}', 'image': png, 'label': label}

  tfds.disable_progress_bar()
  builder = Cifar10(data_dir=data_dir)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format='array_record'
  )
  return Path(builder.data_dir)
