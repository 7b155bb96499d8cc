"""What modes keep, continue or refuse in a run folder that is there already."""

import os
import re
import shutil

import numpy as np
import pytest
from numpy.testing import assert_equal
from PIL import Image

from diffusion_jax.app.config import folder
from diffusion_jax.app.edit import mode as edit
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import (
  arrays_of,
  assert_same,
  lines_of,
  params_of,
  refused,
  smoke,
)
from tests.app.fields import typed

FEW = typed('sampling.num_samples=6 sampling.batch_size=4 sampling.name=samples')


@pytest.fixture(scope='module')
def run(digits_run, tmp_path_factory):
  """Copies a finished run, which no test changes."""
  return shutil.copytree(digits_run, tmp_path_factory.mktemp('runs') / 'mine')


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run, tmp_path / 'mine')


def content(workdir):
  """Returns the content of all files except the lock."""
  paths = [path for path in workdir.rglob('*') if path.is_file()]
  return {p: p.read_bytes() for p in paths if p.name != 'train.lock'}


def keeps_all(mode, config, workdir, message):
  """Checks that a mode refuses in one line and changes no file."""
  before = content(workdir)
  refused(message, MODES[mode], config, str(workdir))
  assert content(workdir) == before


def test_a_run_whose_checkpoints_are_lost(run, copy, capsys):
  """A run without checkpoints refuses its config, or begins again and keeps its metrics."""
  shutil.rmtree(copy / 'checkpoints')
  keeps_all('train', smoke(**{'optimizer.learning_rate': 1e-3}), copy, 'rate is 0.008, 0.001 now')
  old = (copy / 'metrics.jsonl').read_bytes()
  MODES['train'](smoke(), str(copy))
  said = capsys.readouterr().out
  assert 'mine has a config.json but no checkpoint: it begins at step 0' in said
  assert 'is kept as metrics.1.jsonl' in said
  assert (copy / 'metrics.1.jsonl').read_bytes() == old
  assert lines_of(copy, 'step') == [1, 2, 3, 4]
  assert_same(params_of(run), params_of(copy))


def test_a_run_whose_config_is_lost_says_where_a_copy_is(run, copy):
  (copy / 'config.json').unlink()
  message = 'has checkpoints but no config.json, .* cp (.*) (.*/config.json)'
  keeps_all('train', smoke(), copy, message)
  refused(message, store.of_run, RunFolder.at(copy), smoke(), [])
  with pytest.raises(UserError) as error:
    MODES['train'](smoke(), str(copy))
  shutil.copy(*re.search(message, str(error.value)).groups())
  assert folder.read_config(RunFolder.at(copy)) == folder.read_config(RunFolder.at(run))


def test_one_training_at_a_time(copy):
  """The lock is held in this process; test_survival.py has another process."""
  with run_folder.hold(copy):
    keeps_all('train', smoke(), copy, 'mine is being trained by process ')
    MODES['sample'](smoke(**FEW), str(copy))
  MODES['train'](smoke(), str(copy))


@pytest.fixture
def batches(monkeypatch):
  """Counts the batches; raises KeyboardInterrupt before number stop_at."""

  class Count:
    made, stop_at = 0, None

  def check_numbers(config, images, check=sample.check_numbers):
    if Count.made == Count.stop_at:
      raise KeyboardInterrupt
    Count.made += 1
    check(config, images)

  for mode in (sample, edit):
    monkeypatch.setattr(mode, 'check_numbers', check_numbers)
  return Count


EDIT = typed("""
  edit=sdedit edit.image=black.png edit.num_samples=6 edit.output=samples sampling.batch_size=4
""")


@pytest.mark.parametrize(
  'mode, fields, field, old, new',
  [('sample', FEW, 'sampling.seed', 0, 1), ('edit', EDIT, 'edit.strength', 0.5, 0.75)],
)
def test_images_go_on_where_they_were_interrupted(
  mode, fields, field, old, new, copy, batches, capsys, monkeypatch
):
  monkeypatch.chdir(copy)
  Image.fromarray(np.zeros((8, 8), np.uint8)).save('black.png')
  config, folder, batches.stop_at = smoke(**fields), copy / f'{mode}s', 1
  with pytest.raises(KeyboardInterrupt):
    MODES[mode](config, str(copy))
  [parts] = folder.glob('samples.*')
  batches.stop_at = None
  with run_folder.hold(folder, 'samples.npz'):
    message = 'samples.npz is being written by process'
    refused(message, MODES[mode], config, str(copy))
  np.savez(parts / '00000000 (a copy).npz', x=0)
  MODES[mode](config, str(copy))
  assert batches.made == 2  # four and two, of six
  assert not [*folder.glob('*.lock')] and not parts.exists()
  joined = arrays_of(copy, 'samples', folder.name)
  assert len(joined['arr_0']) == 6
  if mode == 'sample':  # as one that was not interrupted
    (folder / 'samples.npz').unlink()
    MODES[mode](config, str(copy))
    assert batches.made == 4
    assert_equal(arrays_of(copy, 'samples', folder.name), joined)
  MODES[mode](config, str(copy))
  assert 'samples.npz is there already' in capsys.readouterr().out
  message = f'samples.npz has other settings: {field} is {old}, {new} now. D'
  keeps_all(mode, store.with_fields(config, {field: new}), copy, message)


def test_samples_of_other_settings_have_other_files(copy, batches, capsys):
  """The program's names; a name of the user's is refused in one line."""
  plain, mine = smoke(**FEW | {'sampling.name': ''}), smoke(**FEW)

  def written(config, copy=copy):
    before = {*copy.glob('samples/samples*.npz')}
    MODES['sample'](config, str(copy))
    last = capsys.readouterr().out.splitlines()[-1]
    new = {*copy.glob('samples/samples*.npz')} - before
    assert all(str(path) in last for path in new)  # the last line has the path
    return [path.name for path in new], last

  [first], _ = written(plain)
  made = batches.made
  older = {'sampling.checkpoint': '2'}
  [other], _ = written(store.with_fields(plain, older))
  assert other != first and batches.made == 2 * made
  written(mine)
  message = 'samples.npz has other settings: sampling.checkpoint is 4, 2 now; weights.* Delete it'
  keeps_all('sample', store.with_fields(mine, older), copy, message)
  copy = copy.rename(copy.with_name('moved'))
  new, last = written(plain, copy)
  assert not new and f'{first} is there already, made with these settings' in last
  np.savez(copy / 'samples' / 'samples.npz', arr_0=np.zeros((1, 8, 8, 1)))
  message = 'settings: it names none. Delete it, .* --config.sampling.name'
  keeps_all('sample', mine, copy, message)


def test_a_report_is_made_of_what_can_be_read(copy, tmp_path, capsys):
  """Links lead elsewhere, and nothing is written there.

  tests/report/test_page.py has damaged files.
  """
  mine = tmp_path / 'other'
  mine.write_text('mine')
  (copy / 'evaluation/b').mkdir(parents=True)
  (copy / 'evaluation/b/result.json').write_text('[' * 200_000)
  (copy / 'samples/samples.npz').write_text('PK')
  for name, target in {
    'report.html': mine,
    'report.html.tmp': mine,
    'metrics.jsonl': '/dev/zero',
    'samples/step_00000004.png': '/dev/zero',
  }.items():
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(target)
  for name in ('step_00000005.png', 'pipe.npz'):
    os.mkfifo(copy / 'samples' / name)
  (copy / 'samples' / 'folder.npz').symlink_to('/')
  MODES['report'](smoke(**{'report.trajectory': False}), str(copy))
  said = capsys.readouterr().out.splitlines()
  left_out = 'the report leaves out '
  assert {line.removeprefix(left_out).partition(': ')[0] for line in said} == {
    'samples.npz',
    f'wrote {copy}/report.html',
  }
  html = (copy / 'report.html').read_text()
  sections = re.findall('<section id="([a-z]+)"', html)
  assert sections == ['config', 'environment'] and mine.read_text() == 'mine'


@pytest.mark.parametrize(
  'name, message',
  {
    'samples': 'leads out of',
    'samples/samples.npz': 'has other settings: it names none',
    'checkpoints/2': 'is a link, a pipe or a device',
    'config.json': 'cannot be read: not a regular file',
    'checkpoints/4/SHA256SUMS': 'is a link, a pipe or a device',
    'checkpoints/4/ema_params/manifest.ocdbt': 'is a link, a pipe',
  }.items(),
)
def test_no_mode_follows_a_link_or_waits_for_a_pipe(name, message, copy):
  """A stranger's archive can have them; test_writes.py has other folders."""
  mine = copy.with_name('out') / 'mine'
  mine.parent.mkdir()
  mine.write_text('mine')
  if (copy / name).is_file():
    (copy / name).unlink()
    os.mkfifo(copy / name)
  else:
    shutil.rmtree(copy / name, ignore_errors=True)
    (copy / name).symlink_to(mine.parent)

  def use():
    MODES['sample'](store.of_run(RunFolder.at(copy), smoke(**FEW), []), str(copy))

  refused(f'{name}.* {message}', use)
  assert content(mine.parent) == {mine: b'mine'}
