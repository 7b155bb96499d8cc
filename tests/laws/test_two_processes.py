"""Law: two processes may use one run: what a mode writes is locked, what it reads is taken again.

Every file that a mode writes is in a folder of which it holds a lock meanwhile, so that a second
process that would write the same is told so before it computes. A training may remove what another
process reads, which then reads the newest. Planted faults: `--mode=average` without its lock; a
reader that gives up when the checkpoint is gone.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.data import drawings
from diffusion_jax.runtime import run_folder
from diffusion_jax.weights import averages, checkpoints, checksums, load
from tests.app.conftest import of_run, refused, trial, untrained, without_config
from tests.app.fields import typed
from tests.app.small_network import SmallAutoencoder
from tests.laws.test_reading_writes_nothing import COMMANDS
from tests.rows import slow
from tests.weights.test_checkpoints import saved, state_of

# The flags of each mode that writes; the server writes nothing.
FLAGS = COMMANDS | {
  'sample trace': f'{COMMANDS["sample"]} sampling.profile=True',
  'evaluate samples': """
    evaluation.metrics=fd evaluation.features=pixels evaluation.num_generated=16
    sampling.batch_size=16
  """,
  'evaluate sweep': """
    evaluation.metrics=loss evaluation.num_images=4 evaluation.sweep=weights=average,raw
  """,
  'train': 'training.num_steps=5',
}
PLACES = [*FLAGS, 'band', 'encode', 'import']


class Watch:
  """Finds files that are written below a folder without a lock.

  A lock of a folder is of all below it, and one of a file also of those of its name elsewhere.
  """

  def __init__(self, root):
    self.root, self.held, self.found, self.locks = root, [], [], []

  def saw(self, event, arguments):
    if event == 'open' and isinstance(arguments[0], (str, bytes)):
      path, _, flags = arguments
      writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event in ('os.rename', 'os.link', 'os.symlink'):
      path, writes = arguments[1], True
    else:
      return
    path = Path(os.fsdecode(path)).absolute()
    is_file = path.suffix not in ('.lock', '.lease') and not path.is_dir()  # of a nameless file
    if writes and is_file and path.is_relative_to(self.root):
      if not any(path.is_relative_to(x) or what and what in path.parts for x, what in self.held):
        self.found.append(str(path.relative_to(self.root)))

  def holding(self, hold):
    @contextlib.contextmanager
    def held(folder, what='', other='--workdir'):
      with hold(folder, what, other):
        self.locks.append((folder, what))
        self.held.append((folder.absolute(), Path(what).stem))
        try:
          yield
        finally:
          self.held.pop()

    return held


watches = []  # of the test that runs; a hook cannot be removed


def hook(event, arguments):
  for watch in watches:
    watch.saw(event, arguments)


@pytest.fixture(scope='module', autouse=True)
def hooked():
  sys.addaudithook(hook)


@pytest.fixture
def watch(tmp_path, monkeypatch):
  """Yields the watch of a folder, which is empty."""
  one = Watch(tmp_path / 'place')
  monkeypatch.setattr(run_folder, 'hold', one.holding(run_folder.hold))
  watches.append(one)
  yield one
  watches.remove(one)


def begun(place, averaged, folder):
  """Returns () that runs a mode which writes into a folder."""
  if place == 'encode':
    network = f'{SmallAutoencoder.__module__}:SmallAutoencoder'
    run = untrained(trial('digits_autoencoder', network=network), folder.with_name('autoencoder'))
    fields = {'latent.run': str(run), 'latent.path': str(folder / 'latents')}
    config = trial('digits_latent', small=True, **fields)
    return lambda: MODES['encode'](config, str(folder / 'run'))
  if place == 'band':
    config = trial(small=True, **{'band.trainings': 2, 'training.num_steps': 2})
    return lambda: MODES['band'](config, str(folder / 'band'))
  if place == 'import':
    weights = folder.with_name('weights.safetensors')
    config = of_run(averaged, **{'convert.to': 'safetensors', 'convert.out': str(weights)})
    MODES['convert'](config, str(averaged))
    config = without_config(**{'convert.source': str(weights)})
    return lambda: MODES['convert'](config, str(folder / 'run'))
  run, mode = shutil.copytree(averaged, folder / 'run'), place.partition(' ')[0]
  fields = typed(FLAGS[place])
  image = folder.with_name('image.png')
  drawings.write_png(image, np.zeros((8, 8, 1), np.uint8))
  fields |= {'edit.image': str(image)} if mode == 'edit' else {}
  fields |= {'convert.out': str(folder / 'out' / 'weights')} if mode == 'convert' else {}
  return lambda: MODES[mode](of_run(run, **fields), str(run))


def test_every_mode_that_writes_is_tried():
  assert {x.partition(' ')[0] for x in PLACES} - {'import'} == {*MODES} - {'serve'}


# A sweep writes what an evaluation of each of its points does.
@pytest.mark.parametrize('place', [slow(x) if x == 'evaluate' else x for x in PLACES])
def test_what_a_mode_writes_is_locked(place, averaged, watch, tmp_path):
  run = begun(place, averaged, tmp_path / 'place')
  watch.found.clear()
  run()
  assert watch.locks and not watch.found, watch.found


@pytest.mark.parametrize('lost', ['', 'ema_params', '*params/**/d'])
@pytest.mark.parametrize('step', ['latest', 'best', 1])
def test_a_reader_takes_the_newest_when_its_checkpoint_is_removed(
  step, lost, tmp_path, monkeypatch
):
  """A training that keeps one checkpoint removes another's, whole or in part, after it is found."""
  kept = {'keep': 1, 'keep_best': int(step == 'best')}
  saved(tmp_path, state_of(step=1), losses=[3.0], **kept)
  check, moments = checksums.check, iter([2])

  def removed_meanwhile(folder, found, *rest):
    for new in moments:
      saved(tmp_path, state_of(step=new, value=float(new)), losses=[3.0 - new], **kept)
      assert not (folder / str(found)).exists()
      for path in (folder / str(new)).glob(lost) if lost else ():  # it stays in part
        shutil.copytree(path, folder / str(found) / path.relative_to(folder / str(new)))
    check(folder, found, *rest)

  monkeypatch.setattr(checksums, 'check', removed_meanwhile)
  if step == 1:
    with pytest.raises((FileNotFoundError, ValueError), match='no checkpoint 1 but 2|checkpoint 1'):
      load.open(tmp_path, 'raw', step)
    return
  params, _, found = load.open(tmp_path, 'raw', step)
  assert found == 2 and params['network']['layer']['kernel'][0, 0] == 2.0


def test_a_reader_gives_up_when_a_training_is_always_faster(tmp_path):
  steps = iter(range(1000))
  with pytest.raises(ValueError, match='removes its files before they are read: wait'):
    run_folder.while_trained(tmp_path, lambda: [next(steps)], lambda: load.open(tmp_path))


def test_an_average_is_made_of_the_snapshots_that_are_left(averaged, tmp_path, monkeypatch):
  """A training thins its snapshots while an average reads them."""
  run = shutil.copytree(averaged, tmp_path / 'run')
  check, moments = averages.check, iter([1])

  def thinned_meanwhile(workdir, step):
    for every in moments:
      averages.thin(run, step=4, every=every, keep=2)
    check(workdir, step)

  monkeypatch.setattr(averages, 'check', thinned_meanwhile)
  shapes = checkpoints.read(run, 'average', 'latest')[0]
  average = averages.make(run, 0.07, None, shapes)
  assert averages.steps(run) == [2, 4] and (average.step, average.snapshots) == (4, 2)


def test_a_second_average_of_one_width_is_told_who_writes_it(averaged, tmp_path):
  run = shutil.copytree(averaged, tmp_path / 'run', ignore=shutil.ignore_patterns('averages'))
  config, out = of_run(run, **typed('average.sigma_rel=0.07')), run / 'averages' / '0.07-4'
  out.mkdir(parents=True)
  with run_folder.hold(out, averages.RECORD):
    refused(
      f'average.json is being written by process {os.getpid()} on', MODES['average'], config, run
    )
  assert not (out / 'config.json').exists()
  MODES['average'](config, str(run))
  assert load.open(out).step == 4
