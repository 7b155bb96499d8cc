"""ArrayRecord files are read by index, as an array of the same pictures."""

import functools
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from numpy.testing import assert_array_equal

from diffusion_jax.data.array_record import array_record
from tests.data import encoded
from tests.data.encoded import LABELS, PICTURES, SHAPE
from tests.refusals import one_line


def example(**features):
  from tensorflow_datasets.proto import tf_example_pb2

  messages: Any = tf_example_pb2  # its classes are made at run time
  message = messages.Example()
  for name, value in features.items():
    lists = message.features.feature[name]
    kind = lists.int64_list if isinstance(value, int) else lists.bytes_list
    kind.value.append(value)
  return message.SerializeToString()


def write(path, records):
  writer = ArrayRecordWriter(str(path), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()
  return path


@pytest.fixture
def folder(tmp_path):
  for name, part in encoded.FILES.items():
    records = [
      example(image=encoded.png(PICTURES[i]), label=int(LABELS[i]), text=f'text {i}'.encode())
      for i in part
    ]
    write(tmp_path / f'set.array_record-{name}', records)
  return tmp_path


read = functools.partial(encoded.read_files, array_record)


def test_batches_are_those_of_the_array(folder):
  encoded.assert_splits(functools.partial(read, folder), 'text')
  assert len(read(folder, path=str(folder), test_path='')) == 30


def test_records_of_tfds_are_read(tmp_path):
  """The files that tfds writes; its serializer needs no TensorFlow."""
  from tensorflow_datasets.core import example_serializer, features

  kinds = features.FeaturesDict(
    {'image': features.Image(shape=SHAPE), 'label': features.ClassLabel(num_classes=3)}
  )
  serializer = example_serializer.ExampleSerializer(kinds.get_serialized_info())
  picture = PICTURES[0]
  data = serializer.serialize_example({'image': encoded.png(picture), 'label': 2})
  path = write(tmp_path / 'a.array_record', [data])
  images, labels = read(tmp_path, path=str(path)).read(np.arange(1)).values()
  assert_array_equal(images[0], picture)
  assert labels.tolist() == [2]


def test_a_file_that_is_cut_short_is_named(folder):
  cut = folder / 'set.array_record-train-00001-of-00002'
  whole = cut.read_bytes()
  for end in (0, 1000, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
    cut.write_bytes(whole[:end])
    with one_line(f'{cut} is cut short'):
      read(folder)
