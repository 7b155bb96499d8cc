"""A damaged file of a checkpoint is named in one line, and nothing is lost."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.weights import checkpoints, checksums, load
from tests.damage import cut, flip, full_disk
from tests.weights.test_checkpoints import equal, restored, saved, state_of

WIDE = 300  # so large that the numbers are not stored in an index


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a run with checkpoints 1 to 3, and the states at them."""
  workdir = tmp_path_factory.mktemp('run')
  states = [state_of(WIDE, step, float(step)) for step in (1, 2, 3)]
  saved(workdir, *states, losses=[6.0, 5.0, 4.0], keep=3, keep_best=1)
  return workdir, dict(enumerate(states, 1))


@pytest.fixture
def copy(run, tmp_path):
  """Returns a copy of the run, whose checkpoints tests may damage."""
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'run' / 'checkpoints')
  return tmp_path / 'run'


newest = functools.partial(restored, target=state_of(WIDE), keep=3)


def test_the_sums_are_those_of_sha256sum(run):
  folder = run[0] / 'checkpoints' / '3'
  command = ['sha256sum', '--check', '--strict', checksums.NAME]
  said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert said.returncode == 0, said.stderr
  assert said.stdout.count('OK') == len(checksums._names(folder) - checksums._WITHOUT_SUMS)


def test_the_metadata_of_orbax_have_nothing_of_the_run(copy, run):
  """Orbax completes its metadata later, so these have no sums and nothing of the run."""
  (copy / 'checkpoints' / '3' / METADATA).write_text('{}')
  equal(load.open(copy).params, run[1][3].ema_params)
  equal(newest(copy), run[1][3])


def test_files_of_other_programs_are_no_damage(copy, run, capsys):
  """Sync tools leave them in every folder."""
  steps, names = copy / 'checkpoints', ('desktop.ini', '.DS_Store', 'Icon\r')
  for place in [steps, *(path for path in steps.rglob('*') if path.is_dir())]:
    for name in (*names, 'manifest (conflicted copy).ocdbt', '@eaDir/3'):
      (place / name).parent.mkdir(exist_ok=True)
      (place / name).write_text(name)
  (steps / '12').touch()
  (steps / 'x.orbax-checkpoint-tmp').touch()
  os.utime(steps / 'x.orbax-checkpoint-tmp', (0, 0))
  equal(load.open(copy).params, run[1][3].ema_params)
  said = capsys.readouterr().err
  assert f'warning: {steps}/3 has files of other programs: @eaDir/3, Icon , config/' in said
  assert said.endswith(', ...\n') and said.count('\n') == 1
  equal(newest(copy), run[1][3])


METADATA, WAS = '_CHECKPOINT_METADATA', 'is not what was written'
UNREAD = f'{METADATA} or {checksums.NAME} is unreadable'
MINE, ZERO = 'ema_params/../../../mine', f'ema_params/{"../" * 30}dev/zero'


def line(name):
  text = f'{hashlib.sha256().hexdigest()}  {name}\n'
  return lambda path: path.write_text(path.read_text() + text)


def saying(text):
  return lambda path: path.write_text(text)


def largest(path):
  """Returns the largest file of numbers of an item; other files as they are."""
  numbers = path.rglob('d/*')
  return max(numbers, key=lambda file: file.stat().st_size, default=path)


def contents(folder):
  paths = [path for path in folder.rglob('*') if path.is_file()]
  return {path.relative_to(folder): path.read_bytes() for path in paths}


# The damage of a file, or of an item's largest file, and what is said.
@pytest.mark.parametrize(
  'damage, name, wrong',
  [
    (flip, 'state', f'state/.* {WAS}'),  # Orbax would restore it.
    (cut, 'state', f'state/.* {WAS}'),
    (Path.unlink, 'state', 'state/.* is missing'),
    (flip, 'ema_params', f'ema_params/.* {WAS}'),
    (flip, 'params/_METADATA', f'params/_METADATA {WAS}'),
    (flip, 'metrics/metrics', f'metrics/metrics {WAS}'),
    (Path.unlink, 'config/metadata', 'config/metadata is missing'),
    (line(MINE), checksums.NAME, f'{MINE} is missing'),
    # These would never be read to their end.
    (line('../../pipe'), checksums.NAME, '../../pipe is missing'),
    (line(ZERO), checksums.NAME, f'{ZERO} is missing'),
    (lambda path: path.write_bytes(b'\xff'), checksums.NAME, UNREAD),
    (Path.unlink, METADATA, f'{METADATA} is missing'),
    (saying('[]'), METADATA, UNREAD),
    (saying('[' * 200_000), METADATA, UNREAD),
  ],
)
def test_damage_of_the_newest_is_named_and_nothing_is_lost(damage, name, wrong, copy, capsys):
  """Sampling names the next good one, and training goes on from it.

  The oldest, which no training starts from, is damaged too, and not moved.
  """
  folder = copy / 'checkpoints'
  (copy / 'mine').touch()
  os.mkfifo(copy / 'pipe')
  flip(folder / '1' / 'state' / 'manifest.ocdbt')
  damage(largest(folder / '3' / name))
  found = checksums.find_damage(folder / '3')
  assert re.fullmatch(wrong, found)
  item = found.partition('/')[0] if '/' in found else 'ema_params'
  assert checksums.find_damage(folder / '3', [item]) == found
  before = contents(folder / '3')
  said = f'checkpoint 3 in {copy} is damaged ({found})'
  with pytest.raises(ValueError) as error:
    load.open(copy)
  assert str(error.value) == f'{said}: take checkpoint=2, which is good'
  assert capsys.readouterr().err == ''
  with checkpoints.open_manager(copy) as manager:
    assert manager.latest_step() == 2
  said = f'checkpoint 3 is damaged ({found}): moved to {copy}/damaged/3'
  assert capsys.readouterr().err == f'warning: {said}\n'
  assert contents(copy / 'damaged' / '3') == before
  checksums.move_damaged(folder)
  assert checksums.steps_in(folder) == [1, 2]
  assert capsys.readouterr().err == ''


def test_no_good_one_is_an_error_and_nothing_is_deleted(copy, run):
  for step in '312':
    equal(load.open(copy, step=2).params, run[1][2].ema_params)
    flip(largest(copy / 'checkpoints' / step / 'ema_params'))
    for which in ('latest', 3, 'best') if step == '3' else ():
      with pytest.raises(ValueError, match='3 in .* take checkpoint=2, which'):
        load.open(copy, step=which)
  with pytest.raises(ValueError, match='is damaged .* and no other is good'):
    load.open(copy)
  with pytest.raises(ValueError, match='no checkpoint of .* is good, all were'):
    checkpoints.open_manager(copy)
  assert checksums.steps_in(copy / 'damaged') == [1, 2, 3]
  assert newest(copy) is None


def test_training_again_over_a_damaged_step(copy, run):
  for name, damage in (('3', flip), ('3-2', cut)):
    damage(largest(copy / 'checkpoints' / '3' / 'state'))
    manager = checkpoints.open_manager(copy, keep=3)
    assert (copy / 'damaged' / name).is_dir()
    equal(checkpoints.restore_latest(manager, state_of(WIDE)), run[1][2])
    checkpoints.save(manager, run[1][3], {})
    checkpoints.finish(manager)
    equal(newest(copy), run[1][3])


@pytest.mark.parametrize('name', ['2/state/manifest.ocdbt', '2/state', '4'])
def test_orbax_opens_nothing_but_files_and_folders(name, copy):
  """Orbax would wait for a pipe, and delete or write in a linked folder."""
  path = copy / 'checkpoints' / name
  (copy / 'elsewhere').mkdir()
  if path.is_file():
    path.unlink()
    os.mkfifo(path)
  else:
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(copy / 'elsewhere')
  for opening in (checkpoints.open_manager, load.open):
    with pytest.raises(UserError, match=f'{name} is a link, a pipe or a dev'):
      opening(copy)


def test_how_good_it_is_may_be_damaged_as_well(copy, run, capsys):
  path = copy / 'checkpoints' / '1' / 'metrics' / 'metrics'
  path.write_text(path.read_text().replace('6.0', '1.0'))
  with pytest.raises(ValueError, match='checkpoint 1 .*metrics/metrics is not'):
    load.open(copy, step='best')
  path.write_text('{"test_')  # Orbax would open none of the checkpoints
  load.open(copy)
  equal(newest(copy, keep_best=1), run[1][3])
  assert 'checkpoint 1 is damaged (metrics/metrics' in capsys.readouterr().err


def test_a_checkpoint_without_sums_is_read_and_said_to_be(copy, run, capsys):
  for step in '123':
    (copy / 'checkpoints' / step / checksums.NAME).unlink()
  equal(newest(copy), run[1][3])
  said = capsys.readouterr().err
  assert said.startswith('warning: checkpoint 3 in ') and said.count('\n') == 1
  assert 'has no checksums: it is read unchecked' in said
  equal(load.open(copy).params, run[1][3].ema_params)
  flip(copy / 'checkpoints' / '3' / 'params' / 'manifest.ocdbt')
  with pytest.raises(ValueError, match='3 in .* cannot be read: .*an older'):
    newest(copy)


@pytest.mark.parametrize(
  'left', ['', 'commit_success.txt', METADATA, '*METADATA', 'config/metadata', checksums.NAME]
)
def test_what_a_removal_has_left_is_no_checkpoint(left, copy, run, capsys):
  """The checkpoint before a removed one is read; by its step it is refused, and moved."""
  for path in (copy / 'checkpoints' / '3').rglob('*'):
    if path.is_file() and not (left and path.match(left)):
      path.unlink()
  equal(load.open(copy).params, run[1][2].ema_params)
  said = f'warning: checkpoint 3 in {copy} has no arrays: it is left out\n'
  assert capsys.readouterr().err == said
  with pytest.raises(ValueError, match='3 in .* is damaged .* take checkpoint=2, which'):
    load.open(copy, step=3)
  equal(newest(copy), run[1][2])
  for step in '12':
    shutil.rmtree(copy / 'checkpoints' / step / 'ema_params')
    shutil.rmtree(copy / 'checkpoints' / step / 'params')
  with pytest.raises(ValueError, match='2 in .* and no other is good'):
    load.open(copy)


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
  # Orbax may still be deleting what was half written.
  assert checksums.steps_in(tmp_path / 'checkpoints') == [1]


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


def test_every_damage_of_every_kind_of_file_is_noticed(run):
  """Orbax completes its metadata, without data of the run, after the sums."""
  folder = run[0] / 'checkpoints' / '3'
  assert checksums.find_damage(folder) == ''
  names = [name for name in files(folder) if name not in checksums._WITHOUT_SUMS]
  assert len(names) > 10
  for name in names:
    whole = (folder / name).read_bytes()
    for damage in (flip, cut, Path.unlink):
      damage(folder / name)
      assert name in checksums.find_damage(folder)
      (folder / name).write_bytes(whole)
  assert checksums.find_damage(folder) == ''
