"""Images per second of the batches of each source, 32x32x3 by default.

  python -m benchmarks.input_pipeline
  python -m benchmarks.input_pipeline --sources=memory,latents --batch=512

memory: an array, as CIFAR-10 and npz files are held. folder: PNG files of twice
the size. records: an array_record set as tfds prepares them (of PNG images).
latents: arrays of 4 channels at an eighth of 256 pixels, which are 32x32.
Each with labels, mirrored at random, as training reads it: on the host, and put
on the device. The generated pictures are written to a temporary folder.
"""

import contextlib
import io
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from diffusion_jax.data import image_folder, pipeline, sources, tfds_sources
from diffusion_jax.runtime.sharding import make_mesh, to_global

flags.DEFINE_list('sources', 'memory,latents,folder,records', 'Which.')
flags.DEFINE_integer('batch', 128, 'Images of a batch.')
flags.DEFINE_integer('size', 32, 'Height and width.')
flags.DEFINE_integer('images', 5000, 'Images of a source on disk.')
flags.DEFINE_integer('threads', 8, 'Threads that read ahead from a disk.')
flags.DEFINE_float('seconds', 3.0, 'Time of a measurement.')
flags.DEFINE_integer('rounds', 3, 'Measurements, of which the best is shown.')


def memory(folder, args):
  """Returns a source of random pictures in memory."""
  return sources.ArraySource(*random_images(50_000, args.size, 3), 10)


def latents(folder, args):
  """Returns a source of arrays of 4 channels in memory."""
  return sources.ArraySource(*random_images(50_000, args.size, 4), 10)


def pictures(folder, args):
  """Writes PNG files of twice the size; returns their source."""
  from PIL import Image

  images, labels = random_images(args.images, 2 * args.size, 3)
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    path = folder / str(label) / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  shape = args.size, args.size, 3
  return image_folder.folder(folder, 'train', shape, labelled=True)


def records(folder, args):
  """Writes PNG pictures as tfds does; returns their source."""
  import tensorflow_datasets as tfds
  from PIL import Image

  class RandomPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      label = tfds.features.ClassLabel(num_classes=10)
      image = tfds.features.Image(shape=(args.size, args.size, 3))
      features = tfds.features.FeaturesDict({'image': image, 'label': label})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      pairs = zip(*random_images(args.images, args.size, 3), strict=True)
      for i, (image, label) in enumerate(pairs):
        file = io.BytesIO()
        Image.fromarray(image).save(file, 'PNG')
        file.seek(0)
        yield i, {'image': file, 'label': label}

  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    RandomPictures(data_dir=folder).download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      file_format='array_record',
    )
  shape = args.size, args.size, 3
  return tfds_sources.tfds_images(
    'random_pictures', 'train', shape, True, folder
  )


SOURCES = {
  'memory': memory,
  'latents': latents,
  'folder': pictures,
  'records': records,
}


def random_images(count, size, channels):
  """Returns (uint8 [count, size, size, channels], labels 0..9)."""
  rng = np.random.default_rng(0)
  small = rng.integers(
    0, 256, (count, size // 8, size // 8, channels), np.uint8
  )
  # Squares of 8 pixels, since nothing compresses noise.
  images = small.repeat(8, axis=1).repeat(8, axis=2)
  return images, rng.integers(0, 10, count).astype(np.int32)


def rate(batches, use, args):
  """Returns the images per second of the best round."""
  best = 0.0
  for batch in itertools.islice(batches, 3):  # The threads have begun.
    use(batch)
  for _ in range(args.rounds):
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < args.seconds:
      use(next(batches))
      count += args.batch
    best = max(best, count / (time.perf_counter() - start))
  return best


def main(_):
  """Prints a line for each source."""
  logging.set_verbosity(logging.ERROR)
  args = flags.FLAGS
  mesh = make_mesh(1, 1)
  device = jax.devices()[0].device_kind
  print(f'batches of {args.batch}, {args.size}x{args.size}, {device}')
  print(f'{"":10}{"host":>12}{"on device":>12}   images per second')
  for name in args.sources:
    with tempfile.TemporaryDirectory() as folder:
      source = SOURCES[name](Path(folder), args)
      batches: Any = pipeline.batches(
        source, args.batch, 0, random_flip=True, num_threads=args.threads
      )
      host = rate(batches, lambda batch: None, args)

      def put(batch):
        jax.block_until_ready(to_global(mesh, batch))

      print(f'{name:10}{host:12,.0f}{rate(batches, put, args):12,.0f}')
      batches.close()


if __name__ == '__main__':
  app.run(main)
