"""What is kept, continued or refused in a run folder that is there already."""

import json
import re
from typing import Any

import pytest

from diffusion_jax.app.config import folder
from tests.app.conftest import DIGITS, refused, smoke


def written(workdir, **changes):
  workdir.mkdir(exist_ok=True)
  folder.write_config(workdir, smoke(**changes), DIGITS)
  return workdir


def test_the_config_is_written_with_all_values_and_the_facts(tmp_path):
  stored: Any = folder.read_config(written(tmp_path))
  assert stored['facts'] == json.loads(json.dumps(DIGITS.as_json()))
  assert {**stored, 'facts': 0} == {**folder.plain(smoke()), 'facts': 0}
  assert folder.read_config(tmp_path / 'nothing') is None
  assert folder.read_config(tmp_path / 'config.json') is None


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'optimizer.learning_rate': 1e-3}, 'learning_rate is .*, 0.001 now'),
    ({'network': 'dit'}, 'network.name is .*SmallNetwork, dit now'),
    ({'conditioning.image': 'inpaint'}, 'conditioning.image.name is absent, inp'),
  ],
)
def test_a_run_with_another_config_is_refused(changes, message, tmp_path):
  written(tmp_path)
  now = smoke(**changes)
  message = f'holds a run with another config: .*{message}.*resume=force'
  refused(message, folder.check_same_run, tmp_path, now, DIGITS)
  folder.check_same_run(tmp_path / 'new', now, DIGITS)


def test_other_images_are_another_run(tmp_path):
  written(tmp_path)
  other = DIGITS._replace(x=DIGITS.x._replace(levels=256))
  message = 'facts.x.levels is 17, 256 now'
  refused(message, folder.check_same_run, tmp_path, smoke(), other)


@pytest.mark.parametrize('changes', [
  {'training.num_steps': 9}, {'sampling.num_steps': 3},
  {'sampling.sampler': 'heun'}, {'evaluation.metrics': 'ode'},
  {'training.mesh': (2, 1)}, {'edit': 'sdedit'}, {'report.runs': 'a'},
  {'matmul_precision': 'high'}, {'compilation_cache': 'x'},
  {'training.keep_every': 4}, {'sampling.guidance.scale': 2},
])  # fmt: skip
def test_what_does_not_change_the_result_may_change(changes, tmp_path):
  hashed = folder.config_hash(written(tmp_path))
  folder.check_same_run(tmp_path, smoke(**changes), DIGITS)
  assert folder.config_hash(written(tmp_path, **changes)) == hashed


def test_the_hash_of_a_run_is_that_of_what_it_computes(tmp_path):
  hashed = folder.config_hash(written(tmp_path))
  assert re.fullmatch('[0-9a-f]{16}', hashed)
  assert folder.config_hash(written(tmp_path, seed=1)) != hashed
  wider = {'network.channels': 12}
  assert folder.config_hash(written(tmp_path, **wider)) != hashed


def test_hparams_are_what_a_training_depends_on(tmp_path):
  stored = json.loads((written(tmp_path) / 'config.json').read_text())
  fields = folder.hparams(stored)
  assert fields['network.channels'] == 8
  assert fields['facts.x.shape'] == '[8, 8, 1]'
  assert not [n for n in fields if n.startswith(('sampling.', 'report.'))]
