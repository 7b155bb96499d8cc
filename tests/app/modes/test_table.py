"""Rows of modes, of this package and of other packages."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffusion_jax.app import modes
from diffusion_jax.app.kinds.roles import USES
from diffusion_jax.app.kinds.sections import COMMON
from diffusion_jax.errors import UserError
from tests.app.conftest import smoke, untrained

ROOT = Path(__file__).parents[3]
(COUNT,) = re.findall(
  r'```python\n([^`]*Mode\([^`]*)```', (ROOT / 'docs' / 'program.md').read_text()
)


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """Builds the wheel of the page's mode, and installs it in a folder."""
  folder = tmp_path_factory.mktemp('wheel')
  wheel, info = folder / 'counts-1.0-py3-none-any.whl', 'counts-1.0.dist-info'
  points = 'count = my_modes:COUNT\nbroken = my_modes:NOTHING\nother = my_modes:COUNT\n'
  files = {
    'my_modes.py': COUNT,
    f'{info}/METADATA': 'Metadata-Version: 2.1\nName: counts\nVersion: 1.0\n',
    f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n',
    f'{info}/entry_points.txt': f'[{modes.GROUP}]\n{points}',
  }
  record = ''.join(f'{name},,\n' for name in (*files, f'{info}/RECORD'))
  with zipfile.ZipFile(wheel, 'w') as archive:
    for name, text in (files | {f'{info}/RECORD': record}).items():
      archive.writestr(name, text)
  command = [sys.executable, '-m', 'pip', 'install', '-q', '--no-index', '--no-deps']
  subprocess.run([*command, f'--target={folder / "site"}', wheel], check=True)
  return folder / 'site'


def launch(site, *arguments):
  """Runs launch.py with an installed package; returns the process."""
  command = [sys.executable, ROOT / 'launch.py', *arguments]
  path = os.pathsep.join([str(site), os.environ.get('PYTHONPATH', '')])
  env = os.environ | {'PYTHONPATH': path}
  return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_another_package_adds_a_mode(installed, tmp_path):
  """It runs, has its line in --help, and its mistakes are one line."""
  where = '--config=configs/digits.py', f'--workdir={tmp_path}'
  result = launch(installed, *where, '--mode=count')
  assert result.stdout == 'digits has 1437 examples\n', result.stderr
  shown = launch(installed, '--help').stdout
  assert "count         prints the number of the data's examples." in shown
  assert '--mode=broken of counts cannot be imported' in shown
  for name, message in (
    ('broken', '--mode=broken of counts cannot be imported: module '),
    ('other', 'my_modes:COUNT must be a diffusion_jax.app.modes.Mode with the name '),
  ):
    result = launch(installed, *where, f'--mode={name}')
    assert result.returncode == 2 and message in result.stderr
    assert result.stderr.count('\n') == 1


def test_a_mode_whose_extra_is_missing(monkeypatch):
  def run(config, workdir):
    raise ModuleNotFoundError('no', name='uvicorn')

  class Config:
    matmul_precision = 'default'

  monkeypatch.setattr('diffusion_jax.app.modes.serve.run', run)
  serve = modes.find('serve')._replace(uses_a_run=False)
  with pytest.raises(UserError, match=r"--mode=serve needs uvicorn: pip install -e '.\[serve\]'"):
    serve(Config(), '')


def steps_of(run):
  print(run.checkpoint[1], 'steps in', run.model.workdir.name)


def test_a_mode_of_a_run_is_given_the_run(tmp_path, capsys):
  workdir = untrained(smoke(), tmp_path / 'run')
  modes.Mode('steps', f'{__name__}:steps_of', uses_a_run=True)(smoke(), workdir)
  assert capsys.readouterr().out == '4 steps in run\n'


def test_every_section_has_a_reader():
  """What a training does not read, the mode with the section's name does."""
  assert {*USES} - {'compilation_cache', 'edit'} == {*COMMON} - {'', 'training'}
  for section in (*USES[:-1], 'training', 'network', 'schedule'):
    readers = [name for name, row in modes.MODES.items() if modes.reads(row, section)]
    assert readers and (section not in modes.MODES or section in readers)
  ends = {name: (f'.{name}', f'.{name}.mode') for name in modes.MODES}
  assert all(row.module.endswith(ends[name]) for name, row in modes.MODES.items())
