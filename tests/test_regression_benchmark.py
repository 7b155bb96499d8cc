"""benchmarks.regression as typed: splits of a file, and their table."""

import json
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import regression as benchmark

pytestmark = pytest.mark.benchmarks


@pytest.mark.slow
def test_the_splits_of_a_file(tmp_path, monkeypatch, capsys):
  """A second command reads the scores of the first, whose draws it repeats."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(60, 3))
  indices = [rng.permutation(60)[:12] for _ in range(2)]
  np.savez(tmp_path / 'a.npz', features=features, target=features.sum(axis=1), test_indices=indices)
  flags = 'training.num_steps=2 training.steps_per_call=1 evaluation.draws_per_pair=4'
  flags += ' sampling.num_steps=2 sampling.batch_size=60 training.mesh=1,1 optimizer.warmup_steps=1'
  args = [str(tmp_path / 'a.npz'), '--splits=1', f'--out={tmp_path / "runs"}', f'--flags={flags}']
  monkeypatch.setattr(sys, 'argv', ['regression', *args])
  benchmark.main()
  first = capsys.readouterr().out
  assert first.count('\n') == 7 and '1 splits; median of a training: ' in first
  (run,) = (tmp_path / 'runs').glob('a-0-*')
  draws = np.load(next(run.glob('evaluation/drawn/samples-*.npz')))['arr_0'].reshape(12, 4)
  error = draws.mean(axis=1) - features.sum(axis=1)[np.sort(indices[0])]
  scores = json.loads((run / 'scores.json').read_text())
  assert np.isfinite([*scores.values()]).all()
  assert_allclose(scores['rmse'], np.sqrt(np.mean(error**2)), rtol=1e-5)
  monkeypatch.setattr(benchmark, 'MODES', {})
  benchmark.main()
  assert capsys.readouterr().out == first


@pytest.mark.parametrize('flag, line', [('--splits=1', 'not found'), ('--splits=0', '1 or more')])
def test_a_mistake_is_a_line(flag, line, monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(sys, 'argv', ['regression', 'no.npz', flag, f'--out={tmp_path}'])
  with pytest.raises(SystemExit):
    benchmark.main()
  assert line in capsys.readouterr().err


def test_the_table_has_means_and_deviations():
  rows = [dict.fromkeys(benchmark.SCORES, x) | {'seconds': x} for x in (1.0, 3.0)]
  assert 'rmse     2.000 +- 1.414' in benchmark.table(rows)
