"""Law: what a reader of data finds and does not take, it says, in one line of one place.

READERS has every set of data that reads files of the user's, with what it takes and what it does
not; a set of neither table fails. Planted faults: `set_files.taken_below` without its line;
`image_folder._say_beside` not called; `images._load` without its frames; `npz._say_others` that
takes labels for read.
"""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app.kinds import choices, discrete
from diffusion_jax.data import image_sets, images, pictures, set_files
from diffusion_jax.data.huggingface import huggingface
from diffusion_jax.data.image_folder import captioned, folder
from diffusion_jax.data.npz import npz
from diffusion_jax.data.tables import csv_table
from diffusion_jax.data.text_files import text_files
from diffusion_jax.data.webdataset import webdataset
from diffusion_jax.demos import simulators
from tests.data import encoded

PNG, SHAPE = encoded.PNG, (6, 5, 3)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
  monkeypatch.setattr(set_files, '_SAID', set())


def fill(top, content):
  for name, data in content.items():
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def save(path, **arrays):
  np.savez(path, **arrays)
  return path


def tar(path, *names):
  return encoded.tar(path, [(name, PNG) for name in names])


def of_folder(top, **options):
  return folder(top, image_shape=SHAPE, **options)


def of_captions(top):
  return captioned(of_folder(top))


def of_tars(top):
  return webdataset(str(top), image_shape=SHAPE)


def of_hub(top):
  pytest.importorskip('datasets', reason="extra 'huggingface'")
  return huggingface(str(top), image_shape=SHAPE)


def of_reference(top):
  return image_sets.read(top)


def line(name, image='1.png', text='a'):
  return json.dumps({'file_name': name, 'text': text}).encode() + b'\n'


X, LABEL = np.ones((4, 2)), np.arange(4)
CLEAN = {'1.png': PNG, '2.PNG': PNG, '.DS_Store': b'', '._1.png': b'', 'Thumbs/.x': b''}
SPLIT = {'train/1.png': PNG, 'train/2.png': PNG, 'test/3.png': PNG}
CAPTIONS = {**CLEAN, 'metadata.jsonl': line('1.png') + line('2.PNG')}
OTHERS = {'3.heic': b'', 'a/4.jp2': b'', 'a/5.svg': b'', 'a/6.svg': b''}

# (reader, files that are all read, further files, the line about them)
FOLDERS = {
  'pictures of other formats': (
    *(of_folder, CLEAN, OTHERS),
    '4 of 6 files are left out, such as a/5.svg (2), 3.heic, a/4.jp2',
  ),
  'pictures in no split': (
    *(of_folder, SPLIT, {'val/4.png': PNG, '5.png': PNG, 'notes.txt': b''}),
    '2 pictures or folders of pictures are left out, such as 5.png, val: the splits are train and',
  ),
  'captions of no picture': (
    *(of_captions, CAPTIONS, {'metadata.jsonl': CAPTIONS['metadata.jsonl'] + line('7.png')}),
    '1 of 3 lines are left out, such as TOP/7.png: there is no such picture',
  ),
  'files beside tars': (
    *(of_tars, {}, {'index.json': b'{}', 'b.tar.gz': b''}),
    '2 of 3 files are left out, such as b.tar.gz, index.json',
  ),
  'texts of other formats': (
    lambda top: text_files(path=str(top), length=2, test_fraction=0.0),
    *({'a.txt': b'abcdef', 'b.md': b'abcdef'}, {'c.pdf': b'%PDF-', 'd.html': b'a'}),
    '2 of 4 files are left out, such as c.pdf, d.html',
  ),
  'a folder of the hub': (
    *(of_hub, {'1.png': PNG, 'README.md': b''}, {'2.heic': b'', '3.svg': b''}),
    '2 of 3 files are left out, such as 2.heic, 3.svg',
  ),
  'a folder of samples': (
    *(of_reference, CLEAN, {'a.npz': b''}),
    '1 of 3 files are left out, such as a.npz',
  ),
}  # fmt: skip


@pytest.mark.parametrize('read, clean, more, said', FOLDERS.values(), ids=FOLDERS)
def test_files_that_are_not_read_get_one_line(read, clean, more, said, tmp_path, capsys):
  if read is of_tars:
    tar(tmp_path / 'a.tar', '1.png')
  fill(tmp_path, clean)
  read(tmp_path)
  assert 'left out' not in capsys.readouterr().out
  fill(tmp_path, more)
  for _ in range(2):  # A mode opens its data several times.
    read(tmp_path)
  lines = [x for x in capsys.readouterr().out.splitlines() if 'left out' in x]
  assert len(lines) == 1
  assert said.replace('TOP', str(tmp_path)) in lines[0]


FILES = {
  'arrays': (
    lambda top: npz(save(top / 'a.npz', x=X, test_x=X, theta=X, weights=X)),
    '2 of 4 arrays are left out, such as theta, weights',
  ),
  'labels': (
    lambda top: npz(save(top / 'a.npz', x=X, label=LABEL)),
    '1 of 2 arrays are left out, such as label: num_classes reads labels',
  ),
  'arrays beside one with another name': (
    lambda top: npz(save(top / 'a.npz', x=X, images=X), x='images'),
    '1 of 2 arrays are left out, such as x',
  ),
  'rows of a test split that has its own array': (
    lambda top: npz(save(top / 'a.npz', x=X, test_x=X, test_indices=LABEL[None, :1])),
    '1 of 3 arrays are left out, such as test_indices',
  ),
  'members of a tar': (
    lambda top: of_tars(tar(top / 'a.tar', '1.png', 'README', '2.png', '._3.png')),
    '1 of 3 members are left out, such as README: they are no plain files with an extension',
  ),
  'columns': (
    lambda top: table(top, 'a,,b\n1,7,2\n2,,5\n'),
    '1 of 3 columns are left out: they have no name',
  ),
  'rows': (
    lambda top: table(top, 'a,b\n1,2\n,5\n3,4\n', drop_missing=True),
    '1 of 3 rows are left out: they lack a value',
  ),
}


def table(top, text, **options):
  (top / 'a.csv').write_text(text)
  return csv_table(top / 'a.csv', ('a', 'b'), **options)


@pytest.mark.parametrize('read, said', FILES.values(), ids=FILES)
def test_parts_of_a_file_that_are_not_read_get_one_line(read, said, tmp_path, capsys):
  for _ in range(2):
    read(tmp_path)
  lines = [x for x in capsys.readouterr().out.splitlines() if 'left out' in x]
  assert len(lines) == 1 and said in lines[0]


def test_all_of_a_file_is_no_line(tmp_path, capsys):
  npz(save(tmp_path / 'a.npz', x=X, label=LABEL, context=X), num_classes=4)
  npz(save(tmp_path / 'b.npz', arr_0=X, test_indices=LABEL[None, :1]))
  table(tmp_path, 'a,b,\n1,2,\n2,5,\n')
  of_tars(tar(tmp_path / 'a.tar', '1.png', '._1.png'))
  assert 'left out' not in capsys.readouterr().out


def animation(name, count=3):
  stream = io.BytesIO()
  frames = [Image.new('RGB', SHAPE[1::-1], (60 * i, 9, 9)) for i in range(count)]
  frames[0].save(stream, name, save_all=True, append_images=frames[1:])
  return stream.getvalue()


@pytest.mark.parametrize('name', ['GIF', 'WEBP', 'PNG', 'TIFF', 'MPO'])
@pytest.mark.parametrize('door', ['folder', 'tar', 'reference', 'edit'])
def test_further_frames_get_one_line(name, door, tmp_path, capsys):
  """An MPO is a picture with other forms of it, as cameras write them."""
  end = {'MPO': 'jpg', 'TIFF': 'tif'}.get(name, name.lower())
  data, path = animation(name), tmp_path / 'pets' / f'1.{end}'
  fill(tmp_path, {f'pets/1.{end}': data, f'pets/2.{end}': data})
  if door == 'edit':
    pictures.read_picture(str(path), 'image', SHAPE)
  elif door == 'tar':
    place = encoded.tar(tmp_path / 'a.tar', [(path.name, data)])
    webdataset(str(place), 'train', SHAPE, image_column=end).read(np.arange(1))
  elif door == 'reference':
    next(image_sets.read(path.parent).batches(2))
  else:
    x = of_folder(path.parent).read(np.arange(2))['x']
    assert x[..., 0].max() < 30  # the first frame
  lines = [x for x in capsys.readouterr().out.splitlines() if 'left out' in x]
  said = r'.*: 2 of 3 frames are left out: the first is the picture'
  assert len(lines) == (name != 'MPO') and all(re.fullmatch(said, x) for x in lines)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['GIF', 'PNG', 'TIFF'])
def test_a_first_frame_is_read_of_a_file_that_ends_in_another(name, tmp_path):
  data, ends = animation(name), []
  for end in range(len(data) // 3, len(data), 7):
    try:
      with Image.open(io.BytesIO(data[:end])) as image:
        expected = np.asarray(image.convert('RGB'))
    except Exception:  # Pillow has many.
      continue
    assert np.array_equal(images.decode_image(data[:end], 'cut'), expected)
    ends.append(end)
  assert ends


# Sets that read no files of a user's choice, and those that join others.
NO_FILES = {
  *('digits', 'shapes', 'synthetic', 'diabetes', 'eeg', 'eight_gaussians', 'moons'),
  'gaussian_process',
  *('cifar10', 'mnist', 'tfds', 'photos', 'binarized', 'between'),
}


def test_every_set_that_reads_files_is_tried():
  readers = {'folder', 'npz', 'csv', 'webdataset', 'huggingface'}
  assert {*choices.DATA} == readers | NO_FILES | {*simulators.BENCHMARK}
  assert {*discrete.SCHEMA.table('data')} - {*choices.DATA} == {'text'}
