"""What is kept, continued or refused in a run folder that is there already."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from diffusion_jax.app import cli
from diffusion_jax.app.config import experiments, folder
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import ALL
from tests.app.conftest import CONFIGS, DIGITS, read, refused, smoke
from tests.app.fields import typed


def written(workdir, **changes):
  workdir.mkdir(exist_ok=True)
  folder.write_config(RunFolder.at(workdir), smoke(**changes), DIGITS)
  return workdir


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'optimizer.learning_rate': 1e-3}, 'learning_rate is .*, 0.001 now'),
    ({'network': 'dit'}, 'network.name is .*SmallNetwork, dit now'),
    ({'conditioning.image': 'inpaint'}, 'conditioning.image.name is absent, inp'),
    ({'network.dtype': 'bfloat16'}, 'network.dtype is float32, bfloat16 now'),
    ({'training.batch_size': 16}, 'training.batch_size is 8, 16 now'),
    ({'training.random_flip': True}, 'training.random_flip is False, True now'),
    ({'training.average.decay': 0.5}, 'training.average.decay is .*, 0.5 now'),
    ({'training.teacher': 'a'}, 'training.teacher is .*, a now'),
    ({'training.start': 'weights', 'training.start.run': 'a'}, 'training.start.name is'),
  ],
)
def test_a_run_with_another_config_is_refused(changes, message, tmp_path):
  written(tmp_path)
  now = smoke(**changes)
  message = f'holds a run with another config: .*{message}.*resume=force'
  refused(message, roles.check_same_run, RunFolder.at(tmp_path), now, DIGITS)
  roles.check_same_run(RunFolder.at(tmp_path / 'new'), now, DIGITS)


def test_a_run_may_lack_fields_that_have_their_defaults(tmp_path):
  """A run may be older than a field, which then has its default."""
  stored: Any = folder.read_config(RunFolder.at(written(tmp_path)))
  del stored['data']['validation_fraction'], stored['training']['average']['more']
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  roles.check_same_run(RunFolder.at(tmp_path), smoke(), DIGITS)
  message = 'data.validation_fraction is absent, 0.1 now'
  now = smoke(**{'data.validation_fraction': 0.1})
  refused(message, roles.check_same_run, RunFolder.at(tmp_path), now, DIGITS)


def test_other_images_are_another_run(tmp_path):
  written(tmp_path)
  other = DIGITS._replace(x=DIGITS.x._replace(levels=256))
  message = 'facts.x.levels is 17, 256 now'
  refused(message, roles.check_same_run, RunFolder.at(tmp_path), smoke(), other)


FREE = """
training.num_steps=9 sampling.num_steps=3 sampling.sampler=heun evaluation.metrics=ode
training.machine.mesh=2,1 edit=sdedit report.runs=a matmul_precision=high compilation_cache=x
training.checkpoints.multiples=4 sampling.guidance.scale=2
"""


@pytest.mark.parametrize('change', FREE.split())
def test_what_does_not_change_the_result_may_change(change, tmp_path):
  changes = typed(change)
  hashed = roles.config_hash(RunFolder.at(written(tmp_path)))
  roles.check_same_run(RunFolder.at(tmp_path), smoke(**changes), DIGITS)
  assert roles.config_hash(RunFolder.at(written(tmp_path, **changes))) == hashed


def test_the_hash_of_a_run_is_that_of_what_it_computes(tmp_path):
  hashed = roles.config_hash(RunFolder.at(written(tmp_path)))
  assert re.fullmatch('[0-9a-f]{16}', hashed)
  assert roles.config_hash(RunFolder.at(written(tmp_path, seed=1))) != hashed
  wider = {'network.channels': 12}
  assert roles.config_hash(RunFolder.at(written(tmp_path, **wider))) != hashed


def test_hparams_are_what_a_training_depends_on(tmp_path):
  stored = json.loads((written(tmp_path) / 'config.json').read_text())
  fields = roles.hparams(stored)
  assert fields['network.channels'] == 8
  assert fields['facts.x.shape'] == '[8, 8, 1]'
  assert not [n for n in fields if n.startswith(('sampling.', 'report.'))]


# -- runs that another run needs -----------------------------------------------


ROOT = CONFIGS.parent


@pytest.mark.parametrize(
  'name, field, run',
  [
    ('digits_distilled', 'training.teacher', 'digits_flow-unscaled_smoke'),
    ('digits_consistency', 'training.start.run', 'digits_edm-smoke'),
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
  refused(message, roles.check_predecessors, config, 'train', RunFolder.at('runs/mine'))
  (tmp_path / 'runs' / run).mkdir(parents=True)
  (tmp_path / 'runs' / run / 'config.json').write_text('{}')
  message = f'the run in runs/{run} has no checkpoint'
  refused(message, roles.check_predecessors, config, 'train', RunFolder.at('runs/mine'))
  (tmp_path / 'runs' / run / 'checkpoints' / '4').mkdir(parents=True)
  roles.check_predecessors(config, 'train', RunFolder.at('runs/mine'))


@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate', 'edit'])
@pytest.mark.parametrize('path', ['sampling.guidance', 'sampling.classifier', 'sampling.sampler'])
def test_a_missing_guide(path, mode, tmp_path):
  flags = [(f'{path}.run', 'none'), (f'{path}.scale', '2')]
  choice = {'sampling.guidance': 'autoguidance', 'sampling.sampler': 'feynman_kac'}.get(path, 'run')
  flags.append((path, choice))
  config = store.with_flags(read('digits'), flags)
  message = f'config.{path}.run: there is no run in none, .* train it first, or'
  refused(message, roles.check_predecessors, config, mode, RunFolder.at(tmp_path))
  config = store.with_flags(config, [(f'{path}.run', '')])
  if path == 'sampling.sampler':  # which can do without
    return roles.check_predecessors(config, mode, RunFolder.at(tmp_path))
  message = f'config.{path}.run is not set: a '
  refused(message, roles.check_predecessors, config, mode, RunFolder.at(tmp_path))
  if mode == 'train':  # which makes no samples then
    off = [('training.sample_every', '0'), ('training.metrics', 'None')]
    roles.check_predecessors(store.with_flags(config, off), mode, RunFolder.at(tmp_path))
  config = store.with_flags(config, [(path, 'None')])
  roles.check_predecessors(config, mode, RunFolder.at(tmp_path))


def test_a_training_that_has_begun_needs_no_first_weights(tmp_path):
  changes = {'training.start.run': 'none', 'latent.run': 'none'}
  config = store.with_flags(read('digits'), changes.items())
  roles.check_predecessors(read('digits_vae'), 'train', RunFolder.at(tmp_path))  # needs no run
  (tmp_path / 'latent.json').touch()
  message = 'training.start.run: there is no run in'
  refused(message, roles.check_predecessors, config, 'train', RunFolder.at(tmp_path))
  roles.check_predecessors(config, 'sample', RunFolder.at(tmp_path))
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  roles.check_predecessors(config, 'train', RunFolder.at(tmp_path))
  (tmp_path / 'latent.json').unlink()
  message = 'latent.run: there is no run in none'
  refused(message, roles.check_predecessors, config, 'train', RunFolder.at(tmp_path))


def test_the_commands_are_those_of_configs(monkeypatch):
  """Missing runs are trained by the commands in configs, for another --workdir too."""
  monkeypatch.chdir(ROOT)
  count = 0
  for name, variant in ALL:
    config = read(f'{name}:{variant}' if variant else name)
    for trial in (config, shrunk(config)):
      for path in roles.PREDECESSORS:
        run = trial.at(path)
        if not run:
          continue
        command = shlex.split(folder.training_command(RunFolder.at(Path(run))))
        path, _, own = command[-1].removeprefix('--config=').partition(':')
        assert Path(cli.find_config(path, True)[0]).is_file(), run
        experiments.from_file(path, own.removesuffix('smoke').rstrip('_'))
        count += 1
  assert count >= 10
  command = folder.training_command(RunFolder.at(Path('/data/digits-smoke')))
  ends = 'configs/digits.py:smoke --workdir=/data/digits-smoke'
  assert command.endswith(ends)
  for name in ('mine', 'digits flow', 'digits.py', '..'):
    assert not folder.training_command(RunFolder.at(Path('runs') / name))
