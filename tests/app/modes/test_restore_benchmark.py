"""benchmarks.restore as typed, on a run of the digits."""

import sys

from benchmarks import restore


def test_rows_as_typed_are_read_by_a_judge(plain, capsys, monkeypatch):
  """Each method has a row without labels and one with them."""
  args = f'--run={plain} --operators=mask --noises=25 --images=2'
  args += ' --samples=3 --methods=decoupled --judge=digits'
  flags = '--flags=sampling.num_steps=2'
  monkeypatch.setattr(sys, 'argv', ['restore', *args.split(), flags])
  restore.main()
  lines = capsys.readouterr().out.splitlines()
  rows = [line.strip('| ').split(' | ') for line in lines if '| ' in line]
  assert rows.pop(0)[-1] == 'read as the truth'
  assert [row[:2] for row in rows] == [
    ['mask, 25', 'decoupled'],
    ['mask, 25', 'decoupled, labels'],
  ]
  for row in rows:
    share = float(row[-1].rstrip('%')) / 100
    assert abs(6 * share - round(6 * share)) < 0.01  # of 6 samples
    assert float(row[2]) > 0.0
