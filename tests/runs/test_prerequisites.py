"""What a start says of another run that is missing, before it does anything."""

import importlib
import shlex
from pathlib import Path

import pytest

from configs import digits_consistency, digits_distilled, digits_latent
from diffusion_jax import build, command_line
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.runs import prerequisites
from tests.programs.conftest import smoke


@pytest.fixture
def nothing_is_built(monkeypatch):
  """The mesh is the first thing that a training builds."""
  monkeypatch.setattr(build, 'build_mesh', lambda config: pytest.fail('built'))


@pytest.mark.parametrize(
  'config, field, run',
  [
    (digits_distilled, 'objective.teacher', 'digits_flow-unscaled_smoke'),
    (digits_consistency, 'training.init_from', 'digits_edm-smoke'),
    (digits_latent, 'latent.run', 'digits_autoencoder-smoke'),
  ],
)
def test_the_missing_run_and_its_command_are_named(
  config, field, run, nothing_is_built, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  name, argument = run.split('-')
  message = (
    f'config.{field}: there is no run in runs/{run}, and .* is needed: '
    f'`.* --config=configs/{name}.py:{argument}` trains it; or give'
  )
  with pytest.raises(UserError, match=message):
    PROGRAMS['train'](config.get_config('smoke'), 'runs/mine')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'runs' / run).mkdir(parents=True)
  (tmp_path / 'runs' / run / 'config.json').write_text('{}')
  with pytest.raises(UserError, match=f'the run in runs/{run} has no check'):
    PROGRAMS['train'](config.get_config('smoke'), 'runs/mine')


@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate'])
@pytest.mark.parametrize('field', prerequisites.OF_SAMPLING)
def test_a_missing_guide(field, mode, digits_run, nothing_is_built, tmp_path):
  guided = {
    'sampling.guidance_scale': 2.0,
    'training.sample_every': 2,
    'evaluation.metrics': ('kid',),
    'evaluation.features': 'digits',
  }
  config = smoke(**guided | {field: str(tmp_path / 'none')})
  workdir = str(tmp_path / 'new') if mode == 'train' else str(digits_run)
  message = f'config.{field}: there is no run in .*none, .* train it first; or '
  with pytest.raises(UserError, match=message):
    PROGRAMS[mode](config, workdir)
  assert not list(tmp_path.iterdir())


def test_a_training_that_has_begun_needs_no_first_weights(tmp_path):
  fields = {'training.init_from': 'none', 'latent.run': 'none'}
  config = smoke(**fields)
  (tmp_path / 'latent.json').touch()
  with pytest.raises(UserError, match='training.init_from: there is no run in'):
    prerequisites.check_training(config, tmp_path)
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  prerequisites.check_training(config, tmp_path)
  (tmp_path / 'latent.json').unlink()
  with pytest.raises(UserError, match='latent.run: there is no run in none'):
    prerequisites.check_training(config, tmp_path)


CONFIGS = [
  path.stem
  for path in (Path(__file__).parents[2] / 'configs').glob('[a-z]*.py')
  if path.stem not in ('base', 'run')
]


def test_the_commands_are_those_of_configs():
  """Of all runs that the configs name; in another folder with --workdir."""
  found = 0
  for name in CONFIGS:
    for argument in ('', 'smoke'):
      config = importlib.import_module(f'configs.{name}').get_config(argument)
      for field in prerequisites.KINDS:
        section, field = field.split('.')
        run = config[section][field]
        if not run:
          continue
        command = shlex.split(prerequisites.training_command(Path(run)))
        path, _, own = command[-1].removeprefix('--config=').partition(':')
        assert Path(command_line.find_config(path) or '').is_file(), run
        importlib.import_module(f'configs.{Path(path).stem}').get_config(own)
        found += 1
  assert found > 10
  command = prerequisites.training_command(Path('/data/digits-smoke'))
  ends = 'configs/digits.py:smoke --workdir=/data/digits-smoke'
  assert command.endswith(ends)
  for name in ('mine', 'digits flow', 'digits.py', '..'):
    assert not prerequisites.training_command(Path('runs') / name)
