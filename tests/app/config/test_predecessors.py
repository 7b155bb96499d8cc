"""What a start says of another run that is missing, before it does anything."""

import shlex
from pathlib import Path

import pytest

from diffusion_jax.app import cli
from diffusion_jax.app.config import predecessors, store
from diffusion_jax.app.smoke import shrunk
from tests.app.config.test_store import ALL
from tests.app.conftest import CONFIGS, read, refused

ROOT = CONFIGS.parent


@pytest.mark.parametrize(
  'name, field, run',
  [
    ('digits_distilled', 'training.teacher', 'digits_flow-unscaled_smoke'),
    ('digits_consistency', 'training.init_from', 'digits_edm-smoke'),
    ('digits_latent', 'latent.run', 'digits_autoencoder-smoke'),
  ],
)
def test_the_missing_run_and_its_command_are_named(name, field, run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(ROOT)
  config, (stem, argument) = shrunk(read(name)), run.split('-')
  message = (
    f'config.{field}: there is no run in runs/{run}, and .* is needed: '
    f'`.* --config=configs/{stem}.py:{argument}` trains it, or give'
  )
  refused(message, predecessors.check, config, 'train', 'runs/mine')
  (tmp_path / 'runs' / run).mkdir(parents=True)
  (tmp_path / 'runs' / run / 'config.json').write_text('{}')
  message = f'the run in runs/{run} has no checkpoint'
  refused(message, predecessors.check, config, 'train', 'runs/mine')
  (tmp_path / 'runs' / run / 'checkpoints' / '4').mkdir(parents=True)
  predecessors.check(config, 'train', 'runs/mine')


@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate', 'edit'])
@pytest.mark.parametrize('path', ['sampling.guidance', 'sampling.classifier'])
def test_a_missing_guide(path, mode, tmp_path):
  flags = [(f'{path}.run', 'none'), (f'{path}.scale', '2')]
  if path == 'sampling.guidance':
    flags.append((path, 'autoguidance'))
  config = store.with_flags(read('digits'), flags)
  message = f'config.{path}.run: there is no run in none, .* train it first, or'
  refused(message, predecessors.check, config, mode, tmp_path)
  config = store.with_flags(config, [(f'{path}.run', '')])
  message = f'config.{path}.run is not set: a '
  refused(message, predecessors.check, config, mode, tmp_path)
  if mode == 'train':  # which makes no samples then
    off = [('training.sample_every', '0'), ('training.metrics_every', '0')]
    predecessors.check(store.with_flags(config, off), mode, tmp_path)
  config = store.with_flags(config, [(path, 'None')])
  predecessors.check(config, mode, tmp_path)


def test_a_training_that_has_begun_needs_no_first_weights(tmp_path):
  changes = {'training.init_from': 'none', 'latent.run': 'none'}
  config = store.with_flags(read('digits'), changes.items())
  predecessors.check(read('digits_vae'), 'train', tmp_path)  # needs no run
  (tmp_path / 'latent.json').touch()
  message = 'training.init_from: there is no run in'
  refused(message, predecessors.check, config, 'train', tmp_path)
  predecessors.check(config, 'sample', tmp_path)
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  predecessors.check(config, 'train', tmp_path)
  (tmp_path / 'latent.json').unlink()
  message = 'latent.run: there is no run in none'
  refused(message, predecessors.check, config, 'train', tmp_path)


def test_the_commands_are_those_of_configs(monkeypatch):
  """This holds for all runs that configs name, and for another --workdir."""
  monkeypatch.chdir(ROOT)
  count = 0
  for name, variant in ALL:
    config = read(f'{name}:{variant}' if variant else name)
    for trial in (config, shrunk(config)):
      for path in predecessors.KINDS:
        run = trial.at(path)
        if not run:
          continue
        command = shlex.split(predecessors.training_command(Path(run)))
        path, _, own = command[-1].removeprefix('--config=').partition(':')
        assert Path(cli.find_config(path, True)[0]).is_file(), run
        store.from_file(path, own.removesuffix('smoke').rstrip('_'))
        count += 1
  assert count >= 10
  command = predecessors.training_command(Path('/data/digits-smoke'))
  ends = 'configs/digits.py:smoke --workdir=/data/digits-smoke'
  assert command.endswith(ends)
  for name in ('mine', 'digits flow', 'digits.py', '..'):
    assert not predecessors.training_command(Path('runs') / name)
