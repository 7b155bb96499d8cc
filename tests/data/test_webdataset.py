"""Tars are read by index, as an array of the same pictures."""

import functools
import gzip
import json
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import set_files
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.data.webdataset import open_tars, webdataset
from tests.data import encoded
from tests.data.encoded import LABELS, PICTURES
from tests.refusals import one_line


def members(part):
  for i in part:
    yield f'a.b/{i:04}.PNG', encoded.png(PICTURES[i])
    yield f'a.b/{i:04}.cls', b'%d\n' % LABELS[i]
    about = {'label': int(LABELS[i]), 'caption': f'picture {i}'}
    yield f'a.b/{i:04}.json', json.dumps(about).encode()
    yield f'a.b/{i:04}.txt', f'text {i}'.encode()


@pytest.fixture
def tars(tmp_path):
  for name, part in encoded.FILES.items():
    encoded.tar(tmp_path / f'{name}.tar', members(part))
  (tmp_path / '._a.tar').write_bytes(b'as macOS writes')
  return tmp_path


read = functools.partial(encoded.read_files, webdataset)


@pytest.mark.parametrize('label', ['cls', 'json:label'])
def test_batches_are_those_of_the_array(tars, label):
  encoded.assert_splits(functools.partial(read, tars), 'txt', label_column=label)


def test_splits_are_files_or_a_fraction(tars):
  halves = [
    read(tars, split, path=str(tars), test_path='', test_fraction=0.2)
    for split in ('train', 'test')
  ]
  assert [*map(len, halves)] == [24, 6]
  images = [s.read(np.arange(len(s)))['x'] for s in halves]
  assert sorted(np.concatenate(images).sum((1, 2, 3))) == sorted(PICTURES.sum((1, 2, 3)))
  with pytest.raises(NoTestSplit, match='has no test split'):
    read(tars, 'test', test_path='')


def test_labels_that_are_asked_for_must_be_there(tars):
  with one_line('num_classes=3 needs labels in 0..2, and the data have none'):
    read(tars, label_column='')


def test_a_checksum_is_of_every_label_and_picture(tmp_path):
  """A byte in the middle of the tar changes the checksum, though the size stays."""
  path = tmp_path / 'a.tar'
  parts = [('png', encoded.PNG), ('cls', b'0')]
  examples = [(f'{i:04}.{end}', x) for i in range(300) for end, x in parts]

  def checksum(i=None, data=b'', fraction=0.0):
    changed = {} if i is None else {i: (examples[i][0], data)}
    encoded.tar(path, [changed.get(j, x) for j, x in enumerate(examples)])
    return webdataset(str(path), 'train', (8, 8, 3), 3, test_fraction=fraction).checksum()

  first = checksum()
  sums = {
    first,
    checksum(fraction=0.2),
    checksum(151, b'1'),
    checksum(150, encoded.PNG[:-1] + b'.'),
  }
  assert len(sums) == 4 and checksum() == first


def test_joined_tars_are_read_whole(tars):
  """`cat` leaves the end of the first tar between the two."""
  first, second = sorted(tars.glob('train-*.tar'))
  first.write_bytes(first.read_bytes() + second.read_bytes())
  second.unlink()
  source = read(tars, path=str(first))
  encoded.assert_batches_of(source, encoded.train_set())
  assert source.table.place(20).endswith('a.b/0020')
  path = first.with_name('joined.tar')
  path.write_bytes(first.read_bytes()[:-20_000])
  with one_line('joined.tar is cut short'):
    read(tars, path=str(path))


def test_members_of_an_example_may_be_anywhere_in_a_tar(tmp_path):
  """GNU tar stores files in the order of a folder, which is any."""
  found = [*members(range(6))]
  order = np.random.default_rng(0).permutation(len(found))
  encoded.tar(tmp_path / 'a.tar', [found[i] for i in order])
  source = webdataset(str(tmp_path / 'a.tar'), 'train', encoded.SHAPE, 3, text_column='txt')
  arrays = source.read(np.arange(6))
  first = [*dict.fromkeys(found[i][0].partition('.P')[0][4:8] for i in order)]
  index = [int(name) for name in first]
  assert sorted(index) == [*range(6)]
  assert_array_equal(arrays['x'], PICTURES[index])
  assert arrays['label'].tolist() == [int(LABELS[i]) for i in index]
  assert arrays['text'].tolist() == [f'text {i}' for i in index]


def test_links_are_read_or_counted(tmp_path, capsys, monkeypatch):
  """GNU tar writes the second name of a file as a link."""
  monkeypatch.setattr(set_files, '_SAID', set())
  top = tmp_path / 'top'
  top.mkdir()
  for i in range(2):
    (top / f'{i}.png').write_bytes(encoded.png(PICTURES[i]))
  (top / '2.png').hardlink_to(top / '1.png')
  (top / '3.png').symlink_to('1.png')
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    for path in sorted(top.iterdir()):
      tar.add(path, path.name)
  source = read(tmp_path, path=str(tmp_path / 'a.tar'), num_classes=0)
  assert_array_equal(source.read(np.arange(len(source)))['x'], PICTURES[[0, 1, 1]])
  assert 'a.tar: 1 of 4 members are left out, such as 3.png' in capsys.readouterr().out


def test_every_cut_of_a_tar_is_noticed(tars):
  path = tars / 'train-00000-of-00002.tar'
  whole = path.read_bytes()
  last = whole.rstrip(b'\0')
  ends = [0, 100, 512, 700, len(last) // 2, len(last) - 3]
  ends.append(-(-len(last) // 512) * 512)  # between two members
  for end in ends:
    path.write_bytes(whole[:end])
    with one_line('train-00000-of-00002.tar is cut short'):
      read(tars)
  path.write_bytes(gzip.compress(whole))
  with pytest.raises(ValueError, match='damaged or compressed'):
    read(tars)
  damaged = bytearray(whole)
  damaged[whole.index(b'a.b/0005.PNG') + 2] ^= 1  # in a header
  path.write_bytes(damaged)
  with pytest.raises(ValueError, match='train-00000-of-00002.tar is cut short, damaged'):
    read(tars)


def test_hostile_tars_are_refused_in_a_line(tmp_path):
  encoded.tar(tmp_path / 'a.tar', [('0.json', b'[' * 200_000)])
  with one_line("json must be JSON with 'label'", 'a.tar'):
    open_tars(str(tmp_path), ['json:label']).get(['json:label'], [0])
  header = tarfile.TarInfo('././@LongLink')
  header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**32
  with open(tmp_path / 'a.tar', 'wb') as file:
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    file.truncate(2**32 + 2048)  # a sparse file
  with one_line('a.tar', 'a name of 4,294,967,296 bytes'):
    open_tars(str(tmp_path), ['png'])
