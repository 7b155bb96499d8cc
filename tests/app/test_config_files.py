"""Where --config finds its file, and which `configs` the files import."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import diffusion_jax
from diffusion_jax.app import cli
from tests.conftest import HANG_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def imports(monkeypatch):
  """Removes configs from sys.modules during a test."""
  kept = sys.modules.copy()
  for name in kept:
    if 'configs' in name.split('.'):  # also diffusion_jax.configs
      del sys.modules[name]
  others = [path for path in sys.path if Path(path or '.').resolve() != ROOT]
  monkeypatch.setattr(sys, 'path', others)
  yield
  for name in sys.modules.keys() - kept.keys():
    if 'configs' in name.split('.'):
      del sys.modules[name]
  sys.modules.update(kept)


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Returns the package as pip installs it: the configs are in it."""
  package = tmp_path / 'site' / 'diffusion_jax'
  package.mkdir(parents=True)
  for part in (*(ROOT / 'diffusion_jax').iterdir(), ROOT / 'configs'):
    (package / part.name).symlink_to(part)
  path = [str(package), *diffusion_jax.__path__]
  monkeypatch.setattr(diffusion_jax, '__path__', path)
  monkeypatch.setattr(cli.processes, 'exit_all', sys.exit)
  return package


def test_the_nearest_config_is_taken(imports, package, tmp_path, monkeypatch):
  """The nearest config file and a file of the user's import the same `configs`."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').touch()
  installed = str(package / 'configs' / 'digits.py')
  for path in ('mine.py', 'configs/digits.py', './configs/digits.py'):
    sys.modules.pop('configs', None)
    file = path if path == 'mine.py' else installed
    assert cli.find_config(f'{path}:smoke', True) == (file, 'smoke')
    assert sys.modules['configs'].__path__ == [str(ROOT / 'configs')]
  for path in ('configs/digit.py', 'digits.py', 'my/configs/digits.py', ''):
    with pytest.raises(SystemExit):
      cli.find_config(path, True)
  assert cli.find_config('', False) == ('', '')
  (tmp_path / 'a:b').mkdir()  # a run
  assert cli.find_config('a:b', True) == ('a:b', '')

  del sys.modules['configs']
  (tmp_path / 'configs').mkdir()
  for name in ('__init__', 'base', 'digits'):
    (tmp_path / 'configs' / f'{name}.py').touch()
  monkeypatch.syspath_prepend(tmp_path)
  found = cli.find_config('configs/digits.py', True)
  assert found == ('configs/digits.py', '')
  assert sys.modules['configs'].__path__ == [str(tmp_path / 'configs')]


@pytest.mark.processes
def test_the_folder_above_a_checkout_does_not_hide_an_editable_install(tmp_path):
  """The checkout has the package's name, and there it is a namespace."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  wheel = project['tool']['hatch']['build']['targets']['wheel']
  places = [str((ROOT / name).resolve()) for name in wheel['dev-mode-dirs']]
  site = tmp_path / 'site'
  site.mkdir()
  (site / 'diffusion_jax.pth').write_text('\n'.join(places))
  (tmp_path / 'diffusion_jax').symlink_to(ROOT)
  code = (
    f'import site; site.addsitedir({str(site)!r})\n'
    'import diffusion_jax as dj\n'
    'from diffusion_jax.app import cli\n'
    'print(dj.q_sample.__module__, *cli.find_config("configs/digits.py", True))'
  )
  result = subprocess.run(
    [sys.executable, '-S', '-c', code],  # without what is installed here
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': sysconfig.get_path('purelib')},
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  name, file = result.stdout.split()
  assert name == 'diffusion_jax.core.process'
  assert Path(file) == ROOT / 'configs' / 'digits.py'
