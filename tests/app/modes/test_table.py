"""Rows of modes, of this package and of other packages."""

import re
import sys
from pathlib import Path

import pytest

from diffusion_jax.app import cli, help, modes
from diffusion_jax.app.kinds.roles import USES
from diffusion_jax.app.kinds.sections import COMMON
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import refused, smoke, untrained
from tests.app.run.conftest import command

ROOT = Path(__file__).parents[3]
DIGITS = f'--config={ROOT}/configs/digits.py'
(COUNT,) = re.findall(r'```python\n([^`]*Mode\([^`]*)```', (ROOT / 'docs' / 'parts.md').read_text())


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """Makes a folder as pip installs the page's mode, which Python searches."""
  site = tmp_path / 'site'
  points = 'count = my_modes:COUNT\nbroken = my_modes:NOTHING\nother = my_modes:COUNT\n'
  for name, text in {
    'my_modes.py': COUNT,
    'counts-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: counts\nVersion: 1.0\n',
    'counts-1.0.dist-info/entry_points.txt': f'[{modes.GROUP}]\n{points}',
  }.items():
    (site / name).parent.mkdir(parents=True, exist_ok=True)
    (site / name).write_text(text)
  monkeypatch.syspath_prepend(site)
  monkeypatch.delitem(sys.modules, 'my_modes', raising=False)
  return site


def test_another_package_adds_a_mode(installed, tmp_path, capsys):
  """A mode of another package runs, has its line in --help, and says mistakes in one line."""
  assert not command(DIGITS, f'--workdir={tmp_path}/run', '--mode=count')
  assert capsys.readouterr().out == 'digits has 1437 examples\n'
  assert help.about_modes()['count'] == "prints the number of the data's examples."
  broken = '--mode=broken of counts cannot be imported: module '
  assert broken in help.about_modes()['broken']
  refused(broken, modes.find, 'broken')
  must = 'my_modes:COUNT must be a diffusion_jax.app.modes.Mode with the name '
  refused(must, modes.find, 'other')


def test_a_mode_whose_extra_is_missing(monkeypatch):
  def run(config, workdir):
    raise ModuleNotFoundError('no', name='uvicorn')

  monkeypatch.setattr('diffusion_jax.app.modes.serve.main', run)
  serve = modes.find('serve')._replace(uses_a_run=False)
  with pytest.raises(UserError, match=r"--mode=serve needs uvicorn: pip install -e '.\[serve\]'"):
    serve(smoke(), '')


def steps_of(run):
  print(run.checkpoint[1], 'steps in', run.model.workdir)


def test_a_mode_of_a_run_is_given_the_run(tmp_path, capsys):
  workdir = untrained(smoke(), tmp_path / 'run')
  cli.start(
    modes.Mode('steps', f'{__name__}:steps_of', uses_a_run=True), smoke(), RunFolder.at(workdir)
  )
  assert capsys.readouterr().out == f'4 steps in {workdir}\n'


def test_every_section_has_a_reader():
  """A section that a training does not read is read by the mode of its name."""
  assert {*USES} - {'compilation_cache', 'edit'} == {*COMMON} - {'', 'training'}
  for section in (*USES[:-1], 'training', 'network', 'schedule'):
    readers = [name for name, row in modes.MODES.items() if modes.reads(row, section)]
    assert readers and (section not in modes.MODES or section in readers)
  ends = {name: (f'.{name}', f'.{name}.mode') for name in modes.MODES}
  assert all(row.module.endswith(ends[name]) for name, row in modes.MODES.items())
