"""Small files of pictures in the formats that people have, for tests."""

import io
import struct
import tarfile
import zlib
from typing import Any

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.data import pipeline
from diffusion_jax.data.sources import ArraySource, labels_of

SIZE, SHAPE = 30, (6, 5, 3)
PICTURES = np.random.default_rng(0).integers(0, 256, (SIZE, *SHAPE), np.uint8)
LABELS = np.arange(SIZE) % 3
FILES = {  # the pictures in each file of a set
  'train-00000-of-00002': range(12),
  'train-00001-of-00002': range(12, 25),
  'test-00000-of-00001': range(25, 30),
}


def png(picture):
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG')
  return file.getvalue()


PNG = png(PICTURES[0])
LARGE = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def png_of(pixels, *more):
  """Returns a PNG of pixels [H, W, 3] of 8 or 16 bits, with more chunks."""
  height, width, _ = pixels.shape
  depth = 8 * pixels.dtype.itemsize
  big = pixels.astype(pixels.dtype.newbyteorder('>')).reshape(height, -1)
  rows = b''.join(b'\0' + row.tobytes() for row in big)
  head = struct.pack('>IIBBBBB', width, height, depth, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    for kind, data in [*[(b'IHDR', head), *more, (b'IDAT', zlib.compress(rows))], (b'IEND', b'')]
  )


def tar(path, members, mode: Any = 'w'):
  with tarfile.open(path, mode) as archive:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def assert_batches_of(source, expected, **options):
  """Asserts that two sources give the same batches, also to two hosts."""
  assert len(source) == len(expected)
  size, seed, start = 8, 3, 2
  hosts: Any = [
    pipeline.batches(source, size, seed, start, True, rows=rows, **options)
    for rows in (slice(0, 5), slice(5, 8))
  ]
  for step in range(start, start + 5):  # into the second epoch
    whole = pipeline.batch_at(expected, size, seed, step, True)
    parts = [next(host) for host in hosts]
    assert whole.keys() == parts[0].keys()
    for name, rows in whole.items():
      assert_array_equal(np.concatenate([part[name] for part in parts]), rows)
  for host in hosts:
    host.close()


def train_set(kind=ArraySource):
  return kind(PICTURES[:25], LABELS[:25].astype(np.int32), 3)


def read_files(constructor, folder, split='train', **options):
  paths = {'path': f'{folder}/*train-*', 'test_path': f'{folder}/*test-*'}
  options = paths | {'num_classes': 3, 'image_shape': SHAPE} | options
  return constructor(split=split, **options)


def assert_splits(read, text_column, **options):
  train = read('train', **options)
  assert_batches_of(train, train_set())
  assert_array_equal(labels_of(train), LABELS[:25])
  images, found = read('test', **options).read(np.arange(5)).values()
  assert_array_equal(images, PICTURES[25:])
  assert found.tolist() == LABELS[25:].tolist()
  texts = read('train', text_column=text_column, **options).read(np.array([14, 3]))['text']
  assert texts.tolist() == ['text 14', 'text 3']
