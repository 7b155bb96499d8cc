"""Checkpoints that are damaged after they were written, file by file."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time

import jax
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.training import checkpoints, checksums, stored_weights
from tests.damage import cut, flip, full_disk
from tests.training.test_checkpoints import equal, restored, saved, state_of

WIDE = 300  # so large that the numbers are not stored in an index


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a run with checkpoints 1 and 2, and the states at both."""
  workdir = tmp_path_factory.mktemp('run')
  states = [state_of(WIDE, step, float(step)) for step in (1, 2)]
  saved(workdir, *states, losses=[5.0, 4.0], keep_best=1)
  return workdir, states


@pytest.fixture
def copy(run, tmp_path):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  return tmp_path


def files(folder):
  """Returns one file of each kind, the largest for files of numbers."""
  kinds = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      name = path.relative_to(folder).as_posix()
      top, _, inside = name.partition('/')
      kind = 'arrays' if top in ('params', 'ema_params', 'state') else top
      inside = inside.partition('/d/')[0] + ('/d' if '/d/' in name else '')
      kinds.setdefault((kind, inside), []).append(name)
  size = lambda name: (folder / name).stat().st_size
  return [max(names, key=size) for names in kinds.values()]


DAMAGES = {'flip': flip, 'cut': cut, 'lose': lambda path: path.unlink()}


newest = functools.partial(restored, target=state_of(WIDE))


def test_the_sums_are_those_of_sha256sum(run):
  folder = run[0] / 'checkpoints' / '2'
  command = ['sha256sum', '--check', '--strict', checksums.NAME]
  said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert said.returncode == 0, said.stderr
  assert said.stdout.count('OK') == len(checksums._names(folder)) - 3


def test_every_damage_of_every_kind_of_file_is_noticed(run):
  """Only the file that Orbax adds last, without data of the run, is exempt."""
  folder = run[0] / 'checkpoints' / '2'
  assert checksums.find_damage(folder) == ''
  kinds = files(folder)
  assert len(kinds) > 12
  harmless = {'commit_success.txt'}
  for name in kinds:
    whole = (folder / name).read_bytes()
    for damage in DAMAGES.values():
      damage(folder / name)
      wrong = checksums.find_damage(folder)
      assert checksums.exist(folder)
      (folder / name).write_bytes(whole)
      assert bool(wrong) == (name not in harmless), (name, wrong)
      top = name if name != checksums.NAME else ''
      unread = 'unreadable' in wrong or name in harmless | {'metadata.json'}
      assert top in wrong or unread, (name, wrong)
  assert checksums.find_damage(folder) == ''


def test_a_bit_anywhere_in_the_metadata_of_orbax(copy, run):
  """A flipped bit is noticed, except in the time stamp."""
  path = copy / 'checkpoints' / '2' / '_CHECKPOINT_METADATA'
  data = path.read_bytes()
  times = 0
  for place in range(len(data)):
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    path.write_bytes(flipped)
    times += not checksums.find_damage(path.parent)
  assert 0 < times <= 19  # digits of commit_timestamp_nsecs


# The last two would never be read to their end.
@pytest.mark.parametrize('name', ['ema_params/../mine', 'pipe', 'dev/zero'])
def test_a_line_of_the_sums_opens_no_other_file(name, copy):
  """A stranger's line may name any; only what the folder lists is read."""
  os.mkfifo(copy / 'pipe')
  (copy / 'checkpoints' / 'mine').touch()
  folder = copy / 'checkpoints' / '2'
  path = f'ema_params/{"../" * 30}dev/zero' if 'zero' in name else f'../{name}'
  with (folder / checksums.NAME).open('a') as file:
    file.write(f'{hashlib.sha256().hexdigest()}  {path}\n')
  assert checksums.find_damage(folder) == f'{path} is missing'


def test_metadata_are_checked_with_any_item(copy):
  """Both files may have the same other text."""
  folder = copy / 'checkpoints' / '2'
  for name in ('_CHECKPOINT_METADATA', 'metadata.json'):
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace(checksums.NAME, 'SHA256SUMZ'))
  damage = 'metadata.json is not what was written'
  assert checksums.find_damage(folder, ['ema_params']) == damage


@pytest.mark.parametrize('text', [
  '[]', '[' * 200_000, '{"custom_metadata": 3}',
])  # fmt: skip
def test_unreadable_metadata_are_damage(text, copy):
  folder = copy / 'checkpoints' / '2'
  (folder / '_CHECKPOINT_METADATA').write_text(text)
  assert checksums.find_damage(folder).startswith('_CHECKPOINT_METADATA ')
  assert not checksums._is_marked(folder, unreadable=False)


@pytest.mark.parametrize('name', ['2/state/manifest.ocdbt', '2/state', '3'])
def test_orbax_opens_nothing_but_files_and_folders(name, copy):
  """It would wait for a pipe, and delete or write in a folder elsewhere."""
  path = copy / 'checkpoints' / name
  (copy / 'elsewhere').mkdir()
  if path.is_file():
    path.unlink()
    os.mkfifo(path)
  else:
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(copy / 'elsewhere')
  for opening in (checkpoints.open_manager, checkpoints.open_read_only):
    with pytest.raises(UserError, match=f'{name} is a link, a pipe or a dev'):
      opening(copy)


@pytest.mark.parametrize('how', DAMAGES)
def test_training_takes_the_newest_good_one(how, copy, run, capsys):
  # flipped numbers of the optimizer would be restored by Orbax
  numbers = (copy / 'checkpoints' / '2' / 'state').rglob('d/*')
  DAMAGES[how](max(numbers, key=lambda path: path.stat().st_size))
  equal(newest(copy), run[1][0])
  said = capsys.readouterr().err
  assert said.startswith('warning: checkpoint 2 is damaged (state/')
  assert f'moved to {copy}/damaged/2\n' in said and said.count('\n') == 1
  assert (copy / 'damaged' / '2' / 'params').is_dir()  # not deleted
  equal(newest(copy), run[1][0])
  assert capsys.readouterr().err == ''


def test_training_again_over_a_damaged_step(copy, run):
  for name in ('2', '2-2'):
    flip(copy / 'checkpoints' / '2' / 'params' / '_METADATA')
    manager = checkpoints.open_manager(copy)
    assert (copy / 'damaged' / name).is_dir()
    checkpoints.save(manager, run[1][1], {})
    checkpoints.finish(manager)
    equal(newest(copy), run[1][1])


def test_no_good_one_is_an_error_and_nothing_is_deleted(copy):
  for step in '12':
    (copy / 'checkpoints' / step / 'config' / 'metadata').unlink()
  with pytest.raises(ValueError, match='no checkpoint of .* is good, all were'):
    checkpoints.open_manager(copy)
  assert sorted(p.name for p in (copy / 'damaged').iterdir()) == ['1', '2']
  assert newest(copy) is None


def test_sampling_refuses_it_and_says_what_to_take(copy, run):
  numbers = (copy / 'checkpoints' / '2' / 'ema_params').rglob('d/*')
  flip(max(numbers, key=lambda path: path.stat().st_size))
  message = (
    r'checkpoint 2 in .* is damaged \(ema_params/.* is not what was written\)'
    ': take checkpoint=1, which is good'
  )
  for which in ('latest', 2, 'best'):
    with pytest.raises(ValueError, match=message):
      stored_weights.restore_params(copy, checkpoint=which)
  params, _ = stored_weights.restore_params(copy, checkpoint=1)
  equal(params, run[1][0].ema_params)
  flip(copy / 'checkpoints' / '1' / 'ema_params' / '_METADATA')
  with pytest.raises(ValueError, match='is damaged .* and no other is good'):
    stored_weights.restore_params(copy)


def test_how_good_it_is_may_be_damaged_as_well(copy, run, capsys):
  path = copy / 'checkpoints' / '1' / 'metrics' / 'metrics'
  path.write_text(path.read_text().replace('5.0', '1.0'))
  with pytest.raises(ValueError, match='checkpoint 1 .*metrics/metrics is not'):
    stored_weights.restore_params(copy, checkpoint='best')
  path.write_text('{"test_')  # Orbax would open none of the checkpoints
  stored_weights.restore_params(copy)
  equal(newest(copy, keep_best=1), run[1][1])
  assert 'checkpoint 1 is damaged (metrics/metrics' in capsys.readouterr().err


def test_checkpoints_of_earlier_versions_are_read(copy, run, capsys):
  for step in '12':
    folder = copy / 'checkpoints' / step
    (folder / checksums.NAME).unlink()
    path = folder / '_CHECKPOINT_METADATA'
    found = json.loads(path.read_text()) | {'custom_metadata': {}}
    path.write_text(json.dumps(found))
    (folder / 'metadata.json').unlink()
  equal(newest(copy), run[1][1])
  said = capsys.readouterr().err
  assert said.startswith('warning: checkpoint 2 in ') and said.count('\n') == 1
  assert 'has no checksums: it is read unchecked' in said
  equal(stored_weights.restore_params(copy)[0], run[1][1].ema_params)
  flip(copy / 'checkpoints' / '2' / 'params' / 'manifest.ocdbt')
  with pytest.raises(ValueError, match='2 in .* cannot be read: .*an older'):
    newest(copy)


def test_sums_that_were_lost_are_no_earlier_version(copy, run):
  (copy / 'checkpoints' / '2' / checksums.NAME).unlink()
  equal(newest(copy), run[1][0])
  assert (copy / 'damaged' / '2').is_dir()


def test_nothing_is_there_before_its_sums_are(tmp_path, monkeypatch):
  """The sums are written before the folder is renamed."""
  names = []

  def write(folder):
    names.append(folder.name)
    assert not (tmp_path / 'checkpoints' / '1').exists()
    assert (folder / 'params' / 'manifest.ocdbt').is_file()

  monkeypatch.setattr(checksums, 'write', write)
  saved(tmp_path, state_of(step=1))
  [name] = names
  assert name.startswith('1.orbax-checkpoint-tmp')


# tensorstore's threads use an event loop that the error has closed
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_save_that_fails_is_an_error_and_keeps_the_last(tmp_path):
  big = lambda step: state_of(10_000, step, float(step))
  noise = np.random.default_rng(0).normal(size=(2, 10_000)).astype(np.float32)
  manager = checkpoints.open_manager(tmp_path)
  checkpoints.save(manager, big(1), {})
  manager.wait_until_finished()
  state = jax.tree.map(lambda x: noise if x.ndim == 2 else x, big(2))
  message = 'could not be .* 1 is the last one: File'
  with full_disk(20_000), pytest.raises(OSError, match=message):
    checkpoints.save(manager, state, {})
    checkpoints.finish(manager)
  equal(restored(tmp_path, big(0)), big(1))
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['1']


def test_sums_wait_for_metadata_that_come_late(tmp_path):
  """Orbax writes them in its own thread, so that a file may be incomplete."""
  path = tmp_path / '_CHECKPOINT_METADATA'
  texts = '{"item_handlers": ', json.dumps({'custom_metadata': checksums.MARK})
  path.write_text('{"custom_metadata": {}}')

  def write():
    for text in texts:
      time.sleep(0.1)
      path.write_text(text)

  thread = threading.Thread(target=write)
  thread.start()
  checksums.wait_for_metadata(tmp_path)
  assert path.read_text() == texts[1]
  thread.join()
  path.unlink()
  with pytest.raises(TimeoutError, match='was not written'):
    checksums.wait_for_metadata(tmp_path, seconds=0.05)
