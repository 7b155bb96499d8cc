"""Sets that exist are used; missing or damaged ones are errors."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from diffusion_jax.data import prepare, tfds_sources
from tests import as_main
from tests.data import archives
from tests.refusals import one_line


def test_archives_put_there_by_hand_need_no_network(tmp_path, manual, written, no_network, capsys):
  folder = prepare.prepare('cifar10', tmp_path)
  assert folder == tmp_path / 'cifar10_arrays' / '1.0.0'
  said = capsys.readouterr()
  assert said.out.startswith('preparing cifar10 in ') and said.err == ''
  assert said.out.count('\n') == 1
  shutil.rmtree(manual)
  assert prepare.prepare('cifar10', tmp_path) == folder  # once
  assert capsys.readouterr().out == '' and not no_network


@pytest.mark.parametrize('name', prepare.NAMES)
def test_a_missing_set_without_a_network(tmp_path, no_network, name):
  with one_line(
    f'{name} is not in {tmp_path} and cannot be downloaded from here',
    'ubyte.gz of https://storage' if name == 'mnist' else 'tar.gz of https://',
    f'into {tmp_path}/downloads/manual',
    f'`python -m diffusion_jax.data.prepare {name} {tmp_path}`',
    f'copy {tmp_path}/{name}_arrays',
    error=FileNotFoundError,
  ):
    prepare.prepare(name, tmp_path)
  [(_, options)] = no_network  # one request, not ten
  assert options['timeout'] <= 5
  assert not list(tmp_path.iterdir())


def test_only_the_missing_files_are_asked_for(tmp_path, manual, no_network, accept):
  from diffusion_jax.data.builders import MNISTArrays

  archives.mnist(manual)
  accept(manual, MNISTArrays.URLS)
  (manual / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(FileNotFoundError, match='Put t10k-labels-idx1-ubyte.gz of'):
    prepare.prepare('mnist', tmp_path)


def test_a_damaged_archive_is_named(tmp_path, manual, no_network):
  archives.cifar10(manual)  # not the official one
  # the size and the sum that are published with the archive's address
  size = '170,052,171'
  sha = 'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'
  with one_line(f'{manual}/cifar-10-binary.tar.gz is damaged', size, sha):
    prepare.prepare('cifar10', tmp_path)
  assert not no_network and not (tmp_path / 'cifar10_arrays').exists()


def test_a_half_prepared_set_is_not_taken_for_a_whole_one(tmp_path, written):
  folder = prepare.prepare('cifar10', tmp_path)
  for name in ('dataset_info.json', 'features.json', '*train*00001'):
    copy = tmp_path / 'copy' / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    [path] = copy.glob(name)
    path.unlink()
    with pytest.raises(ValueError, match='1.0.0 is incomplete: delete it'):
      prepare.prepare('cifar10', tmp_path / 'copy')
    shutil.rmtree(tmp_path / 'copy')


def test_a_damaged_description_of_a_set_is_named(tmp_path, written):
  ours = prepare.prepare('cifar10', tmp_path)
  for folder in (ours, archives.prepared_by_tfds(tmp_path / 'tfds', written)):
    for name in ('dataset_info.json', 'features.json'):
      path = folder / name
      whole = path.read_bytes()
      for damaged in (
        whole[: len(whole) // 2],
        whole.replace(b'name"', b'nale"').replace(b'type"', b'tipe"'),
        whole.replace(b'{', b'\xff', 1),
      ):
        path.write_bytes(damaged)
        top = folder.parents[1]
        with one_line(str(top), match='is damaged.*prepare it'):
          prepare.prepare('cifar10', top)
      path.write_bytes(whole)


def test_what_tfds_stored_as_tfrecord_says_what_to_do(tmp_path, manual, no_network):
  folder = archives.prepared_by_tfds(tmp_path, archives.cifar10(manual))
  shutil.rmtree(manual)
  info = folder / 'dataset_info.json'
  text = info.read_text().replace('"array_record"', '"tfrecord"')
  assert '"tfrecord"' in text
  info.write_text(text)
  with one_line('is stored as tfrecord', '--file_format=array_record', error=FileNotFoundError):
    prepare.prepare('cifar10', tmp_path)


def test_the_command(tmp_path, written):
  for arguments in ((), ('cifar',)):
    result = as_main.run(prepare, *arguments)
    assert result.returncode == 2 and 'error: ' in result.stderr
  result = as_main.run(prepare, '--help')
  assert 'prepare cifar10 [DATA_DIR]' in result.stdout
  result = as_main.run(prepare, 'mnist', tmp_path)
  assert result.returncode == 2 and result.stderr.startswith('error: mnist is')
  result = as_main.run(prepare, 'cifar10', tmp_path)
  assert result.stdout.splitlines()[-1] == str(tmp_path / 'cifar10_arrays' / '1.0.0')


def test_data_dir_is_that_of_tfds(monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', '/some/where')
  assert prepare.default_data_dir() == Path('/some/where')
  monkeypatch.delenv('TFDS_DATA_DIR')
  monkeypatch.setenv('HOME', '/home/me')
  assert prepare.default_data_dir() == Path('/home/me/tensorflow_datasets')
  assert prepare.default_data_dir('~/x') == Path('/home/me/x')


@pytest.fixture
def served(tmp_path, monkeypatch):
  from diffusion_jax.data.builders import CIFAR10Arrays

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  folder = tmp_path / 'served'
  written = archives.cifar10(folder)
  handler = functools.partial(Quiet, directory=folder)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f'http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz'
    monkeypatch.setattr(CIFAR10Arrays, 'URLS', (url,))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield folder, url, written
    server.shutdown()
    thread.join()


def test_with_a_network_the_set_comes_by_itself(served, tmp_path, accept):
  folder, url, written = served
  accept(folder, [url])
  source = tfds_sources.cifar10('train', tmp_path / 'data')
  images, labels = written['train']
  assert {x.tobytes() for x in source.x} == {x.tobytes() for x in images}
  assert sorted(source.label) == sorted(labels)


def test_a_download_that_was_changed_on_the_way_is_refused(served, tmp_path, accept):
  folder, url, _ = served
  accept(folder, [url])
  archive = folder / 'cifar-10-binary.tar.gz'
  archive.write_bytes(archive.read_bytes()[:-1] + b'!')
  with one_line(error=OSError, match='the download of cifar10 failed, try again: .*wrong checksum'):
    prepare.prepare('cifar10', tmp_path / 'data')
  assert not (tmp_path / 'data' / 'cifar10_arrays' / '1.0.0').exists()


def test_another_process_may_be_quicker(tmp_path, written, monkeypatch):
  """tfds renames its finished folder, which fails if the folder exists."""
  from diffusion_jax.data.builders import CIFAR10Arrays

  generate = CIFAR10Arrays._split_generators

  def meanwhile(self, dl_manager):
    monkeypatch.setattr(CIFAR10Arrays, '_split_generators', generate)
    prepare.prepare('cifar10', tmp_path)
    return generate(self, dl_manager)

  monkeypatch.setattr(CIFAR10Arrays, '_split_generators', meanwhile)
  prepare.prepare('cifar10', tmp_path)
  assert len(tfds_sources.cifar10('train', tmp_path)) == 15
