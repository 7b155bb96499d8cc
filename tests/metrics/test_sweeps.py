"""A sweep's table and figure have the scores of each of its settings."""

import pytest

from diffusion_jax.metrics import sweeps
from diffusion_jax.runtime.files import read_summed


@pytest.mark.parametrize('field', ['num_steps', 'weights.sigma_rel'])
def test_a_sweep_is_a_table_a_figure_and_json(field, tmp_path, capsys):
  points = [{field: 0.1}, {field: 0.2}]
  scores = [{'fd': {'value': x, 'error': None, 'note': ''}} for x in (2.5, 1e-3)]
  results = [{'point': p, 'metrics': x} for p, x in zip(points, scores, strict=True)]
  titles = [f'{field}=0.1', f'{field}=0.2']
  sweeps.write(tmp_path, titles, results, {'seed': 3})
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert rows[:3] == [['fd'], [f'{field}=0.1', '2.5'], [f'{field}=0.2', '0.001']]
  assert rows[3] == ['difference', '-2.499']
  stored = read_summed(tmp_path / 'sweep.json')
  assert stored == {'points': results, 'settings': {'seed': 3}}
  assert (tmp_path / 'sweep.png').stat().st_size > 1000


def test_the_difference_of_two_points_has_the_error_of_both(tmp_path, capsys):
  """3 and 4 are 5 in quadrature; three points have no difference."""
  scores = [{'fd': {'value': x, 'error': error}} for x, error in ((2.0, 0.3), (1.5, 0.4), (1, 1))]
  results = [{'point': {'seed': i}, 'metrics': x} for i, x in enumerate(scores)]
  sweeps.write(tmp_path, ['a', 'b'], results[:2], {})
  *_, difference, _ = capsys.readouterr().out.splitlines()
  assert difference.split() == ['difference', '-0.50', '+-', '0.50']
  sweeps.write(tmp_path, ['a', 'b', 'c'], results, {})
  assert '\ndifference' not in capsys.readouterr().out
