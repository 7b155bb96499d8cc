"""--mode=band: several trainings that differ in their seeds, and one that is compared with them."""

import json
import shutil

import numpy as np
import pytest
from absl.testing import flagsaver

from diffusion_jax.app import cli
from diffusion_jax.app.config import trust
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import bands
from diffusion_jax.errors import Preempted
from diffusion_jax.runtime.files import read_summed
from diffusion_jax.training import preemption
from tests.app.conftest import printed_by, refused, smoke
from tests.app.fields import within

FIELDS = {'band.trainings': 3} | within('training', held_out__every=2, held_out__batches=1)


@pytest.fixture(scope='module')
def band(tmp_path_factory):
  """Makes a band of three trainings, and returns its folder and what was printed."""
  folder = tmp_path_factory.mktemp('band')
  trust.allow([str(folder / bands.FILE)])
  return folder, printed_by(MODES['band'], smoke(**FIELDS), str(folder))


def test_trainings_of_a_band_differ_in_all_but_what_is_held_out(band):
  """Their losses do; the loss of one exact denoiser on the held-out draws of each is the same."""
  folder, printed = band
  content = read_summed(folder / bands.FILE)
  assert [*map(int, (x.name for x in sorted(folder.iterdir()) if x.is_dir()))] == [0, 1, 2]
  for seed in range(3):
    assert json.loads((folder / str(seed) / 'config.json').read_text())['seed'] == seed
    assert f'training {seed + 1} of 3: seed {seed}\n' in printed
  assert content['curves']['test_loss']['steps'] == [2, 4]
  values = np.array([content['curves'][name]['values'] for name in ('test_loss',)])
  assert all(len({*row}) == 3 for row in values.reshape(-1, 3))
  floors = [read_summed(folder / str(seed) / 'loss_floors.json')['losses'] for seed in range(3)]
  held_out = [{n: x for n, x in of.items() if n.startswith('test_')} for of in floors]
  assert held_out[0] and held_out[0] == held_out[1] == held_out[2]
  assert all(x > 0 for x in content['processor_seconds'])
  assert f'wrote {folder}/{bands.FILE}' in printed


def test_a_band_that_was_interrupted_goes_on(band, tmp_path, monkeypatch):
  """The second of its trainings is stopped after a step; the curves equal `band`."""
  folder, _ = band
  shutil.copytree(folder / '0', tmp_path / '0')
  calls = iter(range(100))
  stops = lambda n: preemption.SIGTERM if next(calls) == 3 else ''
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'watch', lambda: Stopping(stops))
    with pytest.raises(Preempted, match='the same command continues'):
      MODES['band'](smoke(**FIELDS), str(tmp_path))
  assert not (tmp_path / bands.FILE).exists() and not (tmp_path / '2').exists()
  printed = printed_by(MODES['band'], smoke(**FIELDS), str(tmp_path))
  assert 'this run is finished' in printed and 'step 3 of 4' in printed
  one, other = (read_summed(x / bands.FILE) for x in (folder, tmp_path))
  assert one['curves'] == other['curves'] and one['fields'] == other['fields']
  assert other['processor_seconds'][1] is None  # of two starts


def test_finished_trainings_do_not_go_on_in_a_band(band, tmp_path):
  shutil.copytree(band[0] / '1', tmp_path / '1')
  longer = smoke(**FIELDS, **{'training.num_steps': 8})
  said = refused('1 ended at step 4: its learning rate', MODES['band'], longer, str(tmp_path))
  assert 'train in another folder' in said and not (tmp_path / '0').exists()


class Stopping:
  """Stops a training as a signal does."""

  def __init__(self, stop):
    self.stop = stop

  def __enter__(self):
    return self.stop

  def __exit__(self, *error):
    return False


def test_a_training_is_compared_with_a_band(band, tmp_path, capsys):
  """Its losses equal a training's without one; the line says where they are expected."""
  folder, _ = band
  path = str(folder / bands.FILE)
  fields = FIELDS | {'seed': 7, 'training.band': path}
  MODES['train'](smoke(**fields), str(tmp_path / 'a'))
  printed = capsys.readouterr().out
  assert f'band: {path}, 3 trainings: expected is where 19 of 20' in printed
  note = bands.read(path).note('test_loss', 4, json_of(tmp_path / 'a')['test_loss'])
  line = next(x for x in printed.splitlines() if x.startswith('step 4: test_loss'))
  assert note and line.endswith(f'; {note})') and len(line) <= 100
  assert 'step 4: loss' in printed and printed.count('expected') == 1 + printed.count('; expected')
  MODES['train'](smoke(**fields | {'training.band': ''}), str(tmp_path / 'b'))
  assert 'expected' not in capsys.readouterr().out
  assert json_of(tmp_path / 'a') == json_of(tmp_path / 'b')


def json_of(run):
  """Returns the last line of metrics.jsonl, the results of the last step."""
  return json.loads((run / 'metrics.jsonl').read_text().splitlines()[-1])


def test_what_cannot_be_a_band_is_refused(digits_run, tmp_path):
  place = str(tmp_path / 'new')
  split = smoke(**FIELDS | {'data.validation_fraction': 0.1})
  refused('the seed chooses the validation examples', MODES['band'], split, place)
  refused('holds a run: give another --workdir', MODES['band'], smoke(**FIELDS), str(digits_run))
  refused('config.seed=4294967296', MODES['band'], smoke(**FIELDS, seed=2**32 - 2), place)
  assert not (tmp_path / 'new').exists()
  refused('at least 2', smoke, **{'band.trainings': 1})
  missing = smoke(**FIELDS | {'training.band': f'{place}.json'})
  trust.allow([f'{place}.json'])
  refused('there is no such file, which --mode=band writes', MODES['train'], missing, place)


@pytest.mark.parametrize('mode, folder', [('band', 'digits-long-band'), ('train', 'digits-long')])
def test_a_band_has_a_folder_of_its_own(mode, folder):
  """Without --workdir it is not that of the run of the same config."""
  with flagsaver.flagsaver():
    cli.flags.FLAGS(['launch.py', f'--mode={mode}'])
    assert str(cli.Command('configs/digits.py', 'long', []).workdir) == f'runs/{folder}'
