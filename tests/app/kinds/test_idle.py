"""Shipped configs set no field that nothing reads; app/modes/test_refusals.py has the rules."""

from pathlib import Path

import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.idle import IDLE
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.runtime.files import read_json
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import ALL
from tests.app.conftest import DIGITS, read


@pytest.mark.parametrize('name, variant', ALL)
def test_a_config_and_its_trial_set_no_field_that_is_idle(name, variant):
  """The sampling section of a config and of its trial has all that it needs."""
  config = read(f'{name}:{variant}')
  for each in (config, shrunk(config)):
    each.sampling.make()
    assert [*lines(IDLE, each, 'train', None)] == []


def test_labels_without_a_condition_hear_what_to_do():
  off = [('conditioning.labels', 'False'), ('conditioning.dropout', '0')]
  config = store.with_flags(read('digits'), [*off, ('sampling.labels', '3')])
  (line,) = lines(IDLE, config, 'sample', None)
  assert 'train with conditioning.labels=True, or set sampling.classifier.run' in line


def test_what_a_file_sets_is_left_out_until_nothing_is_idle(capsys):
  """Without the classes of the file its dropout and its guidance are idle."""
  config = store.with_flags(read('imagenet256_dit'), [('conditioning.labels', 'False')])
  flags = ['conditioning.labels']
  rest = store.without_idle(IDLE, config, flags, RunFolder.at(Path('none')), 'train')
  assert rest.sampling.guidance is None
  assert 'note: config.sampling.guidance has no effect with' in capsys.readouterr().out
  assert store.without_idle(IDLE, rest, flags, RunFolder.at(Path('none')), 'train') is rest


def test_a_field_that_a_run_lacks_is_not_set(tmp_path):
  """An older version wrote the run, without the field."""
  config = read('digits')
  folder.write_config(RunFolder.at(tmp_path), config, DIGITS)
  path = tmp_path / 'config.json'
  content = read_json(path)
  del content['sampling']['profile']
  folder.write_stored(tmp_path, content)
  assert store.without_idle(IDLE, config, [], RunFolder.at(tmp_path), 'edit') is config
  assert [*lines(IDLE, config, 'edit', RunFolder.at(tmp_path))] == []
