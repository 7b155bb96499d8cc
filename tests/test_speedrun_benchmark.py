"""benchmarks.speedrun: its recipes train, and its table compares them by Student's t."""

import pytest

from benchmarks.speedrun import __main__ as speedrun
from benchmarks.speedrun.tracks import TRACKS, fields_of
from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.idle import TRAINING
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.train.setup import averages_of
from diffusion_jax.errors import refuse

pytestmark = pytest.mark.benchmarks
RECIPES = [
  (track, name, flags)
  for track in TRACKS.values()
  for names in (speedrun.entries(track, False, ''), speedrun.entries(track, True, ''))
  for name, flags in names.items()
]


@pytest.mark.parametrize('track, name, flags', RECIPES, ids=lambda x: x if ' ' not in x else '')
def test_every_recipe_is_a_config(track, name, flags):
  """Catches a trick whose flags the program refuses, which would end a night of runs."""
  path, _, argument = track.config.partition(':')
  base = store.completed(experiments.from_file(path, argument))
  config = store.with_flags(base, [*fields_of(flags).items()])
  refuse(lines(TRAINING, config, 'train', None))
  averages_of(config)


def test_the_interval_is_students():
  """Differences 1, 2, 3: the mean 2, and 4.302653 / sqrt(3) (a table of t, 2 degrees)."""
  x = speedrun.difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
  assert x.mean == 2.0 and x.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
  assert str(x) == '+2.000 ± 2.484 (nothing)'
  assert str(speedrun.Difference(-0.5, 0.1)) == '-0.500 ± 0.100'
  assert str(speedrun.difference([1.0], [0.5])) == '+0.500 (one seed)'


def test_the_table_pairs_seeds_and_leaves_out_other_runs():
  names = {'nothing': 'a=1', 'trick': 'a=2', 'not run': 'a=3'}
  row = speedrun.Row
  rows = [row('a=1', s, 10, 20.0, 90.0 + s, 0.5) for s in range(3)]
  rows += [row('a=2', s, 10, 10.0, 92.0 + s, 0.5 - 0.1 * s) for s in (1, 2)]
  rows += [row('a=2', 0, 99, 1.0, 1.0, 1.0)]  # another number of samples
  _, _, base, trick = speedrun.table(rows, names, 10).splitlines()
  assert base == '| nothing | 3 | 20 | 91.00 | 0.500 |  |  |'
  assert trick.startswith('| trick | 2 | 10 | 93.50 | 0.350 | +2.000 ± 0.000 | -0.150 ± 0.635')


@pytest.mark.parametrize(
  'flag, line',
  [('--only=x', "'x' is not one of"), ('--seeds=0', '1 or'), ('--judge=x', 'digits have none')],
)
def test_what_cannot_be_run_is_refused(flag, line, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr('sys.argv', ['speedrun', 'digits', flag, f'--out={tmp_path}'])
  with pytest.raises(SystemExit):
    speedrun.main()
  assert line in capsys.readouterr().err


def test_a_command_given_again_runs_nothing_twice(tmp_path, monkeypatch, capsys):
  runs = []

  def run(track, flags, seed, samples, core, out, judge):
    runs.append((flags, seed))
    return speedrun.Row(flags, seed, samples, 1.0, 90.0, 0.5)

  monkeypatch.setattr(speedrun, 'run', run)
  monkeypatch.setattr(
    'sys.argv', ['speedrun', 'digits', '--only=v', '--seeds=2', f'--out={tmp_path}']
  )
  speedrun.main()
  assert len(runs) == len({*runs}) == 4
  speedrun.main()
  assert len(runs) == 4 and '| v | 2 |' in capsys.readouterr().out
