"""benchmarks.peers as typed: with other projects, without them, its table."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.peers import __main__ as peers
from diffusion_jax.testing import certify

METHOD = {
  'diffusion_jax': ('heun()', 'converges'),
  'azula': ('REABSampler', 'lower order'),
  'k-diffusion': ('sample_heun', 'converges'),
  'diffusers': ('HeunDiscreteScheduler', 'does not converge'),
  'deepinv': ('HeunSolver, alpha=0', 'converges'),
  'torchcfm': ('ExactOptimal', 'biased'),
}


@pytest.mark.parity
@pytest.mark.parametrize('project', METHOD)
def test_a_row_as_typed(project, monkeypatch, capsys):
  """Heun's method, of the orders of its papers; each project if installed."""
  if not importlib.util.find_spec(project.replace('-', '_')):
    pytest.skip(f'{project} is not installed')
  part, verdict = METHOD[project]
  argv = ['peers', f'--projects={project}', f'--methods={part}', '--draws=400']
  monkeypatch.setattr(sys, 'argv', argv)
  peers.main()
  row = capsys.readouterr().out.strip().splitlines()[-1]
  assert row.startswith(f'| {project} ') and f'| **{verdict}**: ' in row


@pytest.mark.benchmarks
def test_a_project_that_is_missing_is_a_line(monkeypatch, capsys):
  monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(sys, 'argv', ['peers', '--projects=azula'])
  peers.main()
  assert capsys.readouterr().out.startswith('azula is not installed: its methods are skipped\n')


@pytest.mark.benchmarks
@pytest.mark.parametrize(
  'flag, line',
  [
    ('--projects=azul', '--projects=azul is not one of diffusion_jax, '),
    ('--draws=99', '--draws=99 must be 100 or more'),
    ('--methods=nope --projects=diffusion_jax', '--methods=nope is in no name'),
  ],
)
def test_a_mistake_is_a_line(flag, line, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['peers', *flag.split()])
  with pytest.raises(SystemExit):
    peers.main()
  assert line in capsys.readouterr().err


@pytest.mark.benchmarks
def test_the_table_of_the_page(monkeypatch, tmp_path):
  """The printed table has all projects, and names a formula or a script where one fails."""
  page = peers.PAGE.read_text()
  table = page.split(peers.MARKERS[0])[1].split(peers.MARKERS[1])[0]
  assert table.startswith(peers.HEAD)
  rows = [re.split(r' ?\| ?', line)[1:-1] for line in table.splitlines()[2:]]
  assert {row[0].rpartition(' ')[0] for row in rows} == set(peers.PROJECTS)
  for row in rows:
    verdict, reason = re.fullmatch(r'\*\*(.*)\*\*: (.*)', row[6]).groups()
    assert len(row) == 7 and verdict in get_args(certify.Verdict)
    for script in re.findall(r'`(\w+\.py)`', reason):
      assert (Path(peers.__file__).parent / script).exists()
  monkeypatch.setattr(peers, 'PAGE', tmp_path / 'bench.md')
  peers.PAGE.write_text(page)
  peers.write(table.splitlines()[2:])
  assert peers.PAGE.read_text() == page
