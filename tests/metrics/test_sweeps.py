"""The scores of several settings in a file, a table and a figure."""

import json

from diffusion_jax.metrics import sweeps


def test_a_sweep_is_a_file_a_table_and_a_figure(tmp_path, capsys):
  points = [{'num_steps': n, 'ema_decay': 0.5} for n in (2, 3)]
  results = {
    sweeps.title(point): {'fid': {'value': 1.5 * point['num_steps'], 'error': None}}
    for point in points
  }
  sweeps.write(tmp_path, points, results)
  rows = json.loads((tmp_path / 'sweep.json').read_text())['points']
  assert [row['point'] for row in rows] == points
  assert [row['metrics'] for row in rows] == [*results.values()]
  assert (tmp_path / 'sweep.png').stat().st_size > 0
  head, *lines = capsys.readouterr().out.splitlines()
  assert head.split() == ['fid']
  assert lines[1].split() == ['num_steps=3,ema_decay=0.5', '4.5']
