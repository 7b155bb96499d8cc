"""Row groups of parquet files are read when they are needed."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from diffusion_jax.data.parquet import block_order, open_parquet
from tests.data import encoded
from tests.data.encoded import LABELS, PICTURES
from tests.refusals import one_line


def write(path, start, end, group=5):
  cells = [{'bytes': encoded.png(PICTURES[i]), 'path': f'{i}.png'} for i in range(start, end)]
  columns = {'image': cells, 'label': LABELS[start:end]}
  parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
  return str(path)


@pytest.fixture
def files(tmp_path):
  """Writes 30 rows in the groups 5, 5, 2, 5, 5, 5, 3."""
  return [write(tmp_path / f'{a}.parquet', a, b) for a, b in ((0, 12), (12, 30))]


@pytest.fixture
def counting():
  """Returns a function that opens a file slowly, and the names it opened."""
  opened = []

  def open_file(path):
    opened.append(path)
    time.sleep(0.01)
    return open(path, 'rb')

  return open_file, opened


def test_rows_are_those_of_the_array(files):
  table = open_parquet('set', files, ['image', 'label'], 8)
  assert len(table) == 30 and table.columns == ['image', 'label']
  assert table.sizes.tolist() == [5, 5, 2, 5, 5, 5, 3]
  index = np.random.default_rng(0).permutation(30)
  assert table.get(['label', 'image'], index) == {
    'label': LABELS[index].tolist(),
    'image': [encoded.png(PICTURES[i]) for i in index],
  }
  assert table.place(18) == f'{files[1]}, row group 1, row 1'


@pytest.mark.parametrize('buffer', [1, 8, 29])
def test_an_epoch_has_every_image_once_and_its_blocks_together(buffer):
  sizes = np.array([5, 5, 2, 5, 5, 5, 3])
  order = block_order(np.random.default_rng(0), sizes, buffer)
  assert sorted(order) == list(range(30)) and list(order) != list(range(30))
  block = np.repeat(np.arange(7), sizes)[order]
  for b in range(7):
    places = np.flatnonzero(block == b)
    assert places[-1] - places[0] < buffer + sizes.max()
  if buffer > 5:  # images of several blocks are mixed
    assert np.count_nonzero(np.diff(block)) > 6


def test_an_epoch_opens_each_row_group_once(files, counting):
  open_file, opened = counting
  table = open_parquet('set', files, ['image', 'label'], 8, open_file)
  assert sorted(opened) == sorted(files)  # the footers
  for part in np.split(table.order(np.random.default_rng(0)), 10):
    table.get(['image', 'label'], part)
  assert len(opened) == 2 + len(table.sizes)


def test_threads_share_the_reading_of_a_row_group(files, counting):
  open_file, opened = counting
  table = open_parquet('set', files, ['label'], 30, open_file)
  with ThreadPoolExecutor(4) as pool:
    results = pool.map(table.get, [['label']] * 4, [np.arange(30)] * 4)
  assert [*results] == [{'label': LABELS.tolist()}] * 4
  assert len(opened) == 2 + 7


def test_each_flipped_bit_is_named_or_leaves_the_rows(tmp_path):
  """Some flipped bits make a page shorter than its row group."""
  path = write(tmp_path / 'a.parquet', 0, 5)
  whole, reasons = (tmp_path / 'a.parquet').read_bytes(), []
  for place in range(len(whole) // 2, len(whole)):
    flipped = bytearray(whole)
    flipped[place] ^= (1, 32)[place % 2]
    (tmp_path / 'a.parquet').write_bytes(flipped)
    try:
      table = open_parquet('set', [path], ['label'], 8)
      assert len(table.get(['label'], np.arange(5))['label']) == 5
    except ValueError as error:
      assert path in str(error)
      reasons.append(str(error))
  assert any('of 5 rows are in a row group' in reason for reason in reasons)


def test_damaged_files_are_named(files, tmp_path):
  with one_line(files[0], "no column 'class', but image, label"):
    open_parquet('set', files, ['image', 'class'], 8)
  with open(files[1], 'rb') as file:
    whole = file.read()
  cut = tmp_path / 'cut.parquet'
  for end in (0, 3, len(whole) // 2, len(whole) - 1):
    cut.write_bytes(whole[:end])
    with one_line(f'{cut} cannot be read as a parquet file: '):
      open_parquet('set', [*files, str(cut)], ['image'], 8)
  cut.write_bytes(whole)
  table = open_parquet('set', [str(cut)], ['image'], 8)
  cut.write_bytes(bytes(len(whole)))  # after the footers were read
  for _ in range(2):
    with pytest.raises(ValueError, match='cut.parquet cannot be read'):
      table.get(['image'], np.arange(3))
