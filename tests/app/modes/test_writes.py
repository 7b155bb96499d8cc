"""What modes write in a run folder: ended by a kill, or through planted links.

tests/test_survival.py kills real processes.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from jax import export

from diffusion_jax.app.modes import MODES
from diffusion_jax.data import drawings
from diffusion_jax.errors import UserError
from diffusion_jax.weights import checksums
from tests.app.conftest import SEEN, lines_of, of_run, smoke
from tests.app.disk import Disk
from tests.app.fields import typed

pytestmark = pytest.mark.processes  # kills, and links

TRAINED = SEEN | typed("""
  training.average=powers training.average.widths=0.05,0.1 training.average.every=2
""")
TRAINED |= typed('report.after_training=False optimizer.decay=constant')
COMMANDS = {
  'train': TRAINED | {'training.num_steps': 6},
  'sample': typed("""
    sampling.name=few sampling.num_samples=6 sampling.batch_size=4 sampling.trajectory=True
  """),
  'edit': typed("""
    edit=sdedit edit.strength=0.0 edit.image=picture.png edit.num_samples=1
  """),
  'evaluate': typed("""
    evaluation.metrics=elbo evaluation.num_images=8 evaluation.batch_size=4
  """),
  'report': {'report.trajectory': False},
  'average': {'average.sigma_rel': 0.1},
  'convert safetensors': {'convert.out': 'weights.safetensors'},
  'convert huggingface': {'convert.out': 'shared'},
  'convert stablehlo': {'convert.out': 'sampler'},
}
# They write in folders; convert in new ones only.
FOLDERS = 'train', 'edit', 'evaluate', 'average', 'convert huggingface', 'convert stablehlo'
LAST_PREVIEW = 'samples/step_00000006.png'
# Their content depends on the time.
TIMED = 'sessions.jsonl', 'events.out.tfevents', 'train.lock', 'report.html'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Trains a run with snapshots, which no test changes."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  MODES['train'](smoke(**TRAINED), str(workdir))
  drawings.write_png(workdir / 'picture.png', np.zeros((8, 8), np.uint8))
  return workdir


def start(command, workdir, monkeypatch):
  """Starts a mode in a run folder, which is the current one."""
  mode, *to = command.split()
  fields = COMMANDS[command] | dict(zip(['convert.to'], to, strict=False))
  monkeypatch.chdir(workdir)
  config = smoke(**fields) if mode == 'train' else of_run(workdir, **fields)
  MODES[mode](config, str(workdir))


def content(workdir):
  """Returns what a later start may read, by name.

  A checkpoint is its damage, since Orbax draws names; a line is its step.
  """
  results = {}
  for path in workdir.rglob('*'):
    name = path.relative_to(workdir).as_posix()
    if any(x in name for x in ('.tmp', '-tmp', '.parts', '.draft')):
      continue  # A later start takes none of these for whole.
    if path.parent.name == 'checkpoints':
      results[name] = checksums.find_damage(path)
    elif 'checkpoints/' in name:
      continue
    elif path.suffix == '.stablehlo':
      program = export.deserialize(bytearray(path.read_bytes()))
      results[name] = program.in_avals, program.out_avals
    elif path.name == 'metrics.jsonl':
      results[name] = lines_of(workdir, 'step')
    elif path.is_file() and not path.name.startswith(TIMED):
      results[name] = re.sub(b'"compiled_in": .*', b'', path.read_bytes())
  return results


class Finished(NamedTuple):
  written: list[str]  # names of files
  content: dict
  changes: list[tuple[str, str]]  # of files, in the order of time


@pytest.fixture(scope='module')
def finished(run, tmp_path_factory):
  """Returns a function command -> what it leaves in a copy of the run."""
  results = {}

  def finish(command, monkeypatch):
    if command not in results:
      workdir = tmp_path_factory.mktemp('finished') / 'run'
      shutil.copytree(run, workdir)
      old = {path: path.stat().st_mtime_ns for path in workdir.rglob('*')}
      with Disk(workdir) as disk:
        start(command, workdir, monkeypatch)
      written = [
        path.relative_to(workdir).as_posix()
        for path in workdir.rglob('*')
        if path.is_file() and path.stat().st_mtime_ns != old.get(path)
      ]
      results[command] = Finished(written, content(workdir), disk.changes)
    return results[command]

  return finish


QUICK = 'sample', 'average', 'convert huggingface', 'convert stablehlo'
# Threads of a training come to some changes in another order each time.
ALL = [pytest.param(x, 'os.rename' * (x == 'train'), marks=pytest.mark.slow) for x in COMMANDS]


@pytest.mark.parametrize('command, only', [*((x, 'os.rename') for x in QUICK), *ALL])
def test_a_kill_at_a_change_of_a_file_loses_nothing(
  command, only, run, finished, tmp_path, monkeypatch
):
  """The next start makes what is missing, and takes nothing half for whole.

  Quick tests have the changes that give a file its name.
  """
  before, (_, after, changes) = content(run), finished(command, monkeypatch)
  assert after != before or command == 'report'
  changes = [what for what in changes if only in ('', what[0])]
  for at, what in enumerate(changes):
    shutil.rmtree(tmp_path / 'run', ignore_errors=True)
    workdir = shutil.copytree(run, tmp_path / 'run')
    with Disk(workdir, at, only) as killed:
      start(command, workdir, monkeypatch)
    assert killed.dead, what
    for name, x in content(workdir).items():
      states = before.get(name), after.get(name)
      free = name == 'metrics.jsonl' or name.endswith('.lock')
      assert free or x in states, (what, name)
    try:
      start(command, workdir, monkeypatch)
    except UserError as error:  # What it would write is there, and whole.
      assert 'exist' in str(error) or 'holds a run' in str(error), what
    found = content(workdir)
    if command == 'train':  # Its last step is saved before its preview.
      found = {LAST_PREVIEW: after[LAST_PREVIEW], **found}
    assert found == after, what


def plant(workdir, names, out):
  """Replaces files of a run by links to copies of them; returns the links."""
  for i, name in enumerate(names):
    path, mine = workdir / name, out / f'{i}.mine'
    mine.write_bytes(path.read_bytes() if path.exists() else b'mine')
    kind = i % (2 if path.exists() else 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == 1:
      path.hardlink_to(mine)
    else:
      path.symlink_to(mine if kind == 0 else mine.with_suffix('.none'))
  return {*names}


def go_on(command, workdir, planted, monkeypatch):
  """Starts a mode until it ends, without each link that it refuses."""
  for _ in range(len(planted) + 1):
    try:
      return start(command, workdir, monkeypatch)
    except UserError as error:
      text = str(error)
      named = {name for name in planted if name in text} or {
        name for name in planted if any(f'/{p} ' in text for p in Path(name).parents)
      }
      assert named, error
      planted -= named
      for name in named:
        (workdir / name).unlink()


# An evaluation, whose programs take long, writes by the functions of the other modes.
def rows(commands):
  return [pytest.param(x, marks=[pytest.mark.slow] * (x == 'evaluate')) for x in commands]


@pytest.mark.parametrize(
  'command', rows([*FOLDERS[:-2], 'sample', 'report', 'convert safetensors'])
)
def test_no_mode_writes_through_a_link(command, run, finished, tmp_path, monkeypatch):
  """Links are in place of all files that it writes, and of some that it reads.

  A mode replaces a link, or refuses it in a line that names it.
  """
  out = tmp_path / 'out'
  out.mkdir()
  workdir = shutil.copytree(run, tmp_path / 'run')
  names = ['config.json', 'metrics.jsonl', 'sessions.jsonl', 'train.lock']
  names += finished(command, monkeypatch).written
  # Orbax writes in new folders only.
  names = [name for name in names if 'checkpoints/' not in name]
  planted = plant(workdir, dict.fromkeys(names), out)
  before = {path: path.read_bytes() for path in out.iterdir()}
  go_on(command, workdir, planted, monkeypatch)
  assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize('command', rows(FOLDERS))
def test_no_mode_writes_in_a_linked_folder(command, run, finished, tmp_path, monkeypatch):
  """A link in place of each folder in which it writes is refused."""
  full, empty = tmp_path / 'full', tmp_path / 'empty'
  for out in (full, empty):
    out.mkdir()
  (full / 'mine').write_text('mine')
  written = map(Path, finished(command, monkeypatch).written)
  folders = {p for name in written for p in name.parents if len(p.parts) < 4}
  workdir = tmp_path / 'run'
  for folder in sorted(folders - {Path()}):
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / folder, ignore_errors=True)
    (workdir / folder).parent.mkdir(parents=True, exist_ok=True)
    # convert may write in a linked folder that is there, and empty.
    new = command.startswith('convert')
    # A full folder below evaluation/ would be another evaluation.
    out = full if folder.parent == Path() else empty
    (workdir / folder).symlink_to(out / 'new' if new else out)
    message = f'{folder}.* (leads out of|is a link, a pipe or a dev|exists alre)'
    with pytest.raises(UserError, match=message):
      start(command, workdir, monkeypatch)
    assert [*full.iterdir(), *empty.iterdir()] == [full / 'mine'], folder
    assert (full / 'mine').read_text() == 'mine'
