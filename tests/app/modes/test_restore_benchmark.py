"""benchmarks.restore as typed, on a run of the digits."""

import sys

import pytest

from benchmarks import restore

pytestmark = pytest.mark.benchmarks


def table(run, monkeypatch, capsys, *args):
  few = f'--run={run} --operators=mask --noises=25 --images=2 --flags=sampling.num_steps=2'
  monkeypatch.setattr(sys, 'argv', ['restore', *few.split(), *args])
  restore.main()
  lines = capsys.readouterr().out.splitlines()
  return [line.strip('| ').split(' | ') for line in lines if '| ' in line]


def test_rows_as_typed_are_read_by_a_judge(plain, capsys, monkeypatch):
  """Each method has a row without labels and one with them."""
  args = '--samples=3 --methods=decoupled --judge=digits'
  rows = table(plain, monkeypatch, capsys, *args.split())
  assert rows.pop(0)[-1] == 'read as the truth'
  assert [row[:2] for row in rows] == [['mask, 25', 'decoupled'], ['mask, 25', 'decoupled, labels']]
  for row in rows:
    share = float(row[-1].rstrip('%')) / 100
    assert abs(6 * share - round(6 * share)) < 0.01  # of 6 samples
    assert float(row[2]) > 0.0


def test_rows_of_the_methods_of_inpainting(plain, capsys, monkeypatch):
  """All but guidance keep the known pixels exactly."""
  names = list(restore.FILLING)
  methods = f'--methods={";".join(names)}'
  rows = table(plain, monkeypatch, capsys, '--samples=1', methods)[1:]
  assert [row[1] for row in rows] == names
  residual = {row[1]: float(row[2]) for row in rows}
  assert residual['repaint'] == residual['replace'] == 0.0
  assert residual['reconstruction'] > 0.0


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--methods=dsp', '--methods: dsp is unknown, see --help'),
    ('--methods=repaint', '--methods: repaint needs --operators=mask'),
    ('--operators=blr', '--operators: blr is not of blur, downsample, mask'),
    ('--noises=x', "--noises: invalid numbers value: 'x'"),
  ],
)
def test_an_unsuitable_flag_is_refused(flag, message, capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['restore', '--run=runs/digits', flag])
  with pytest.raises(SystemExit, match='2'):
    restore.main()
  assert message in capsys.readouterr().err
