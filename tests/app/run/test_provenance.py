import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.run import provenance
from tests.app.conftest import as_flags, refused, smoke

SETTINGS = {
  'run': 'digits',
  'sampling': {
    'checkpoint': 300,
    'sampler': {'name': 'ddim', 'eta': 0.0},
    'respacing': '',
    'num_steps': 50,
    'seed': 1,
    'guidance': {'name': 'classifier_free', 'scale': 2.0},
    'classifier': None,
  },
}


def test_a_line_has_what_differs_from_the_plain_case():
  assert provenance.describe(SETTINGS) == (
    'settings: digits, checkpoint 300, ddim, 50 steps, seed 1, '
    'classifier_free 2'
  )


def test_settings_are_kept_and_compared(tmp_path):
  path = tmp_path / 'samples.npz'
  np.savez(path, settings=provenance.as_array(SETTINGS))
  assert provenance.read(path) == SETTINGS
  provenance.check_same(path, SETTINGS | {'run': 'moved'}, 'x', 'sampling.name')
  other = SETTINGS | {'sampling': SETTINGS['sampling'] | {'seed': 2}}
  message = r'x has other .*seed.*sampling\.name'
  refused(message, provenance.check_same, path, other, 'x', 'sampling.name')


BASE = {'sampling.sampler': 'heun', 'sampling.guidance.scale': 3.0}


@pytest.mark.parametrize('changes, expected', [
  ({}, ''),
  ({'sampling.num_steps': 20, 'sampling.labels': (3, 7)},
   '-labels=3,7,num_steps=20'),
  ({'sampling.sampler': 'dpm_solver_pp'}, '-sampler=dpm_solver_pp'),
  ({'sampling.sampler': 'ddim', 'sampling.sampler.eta': 0.5},
   '-sampler=ddim,sampler.eta=0.5'),
  ({'sampling.guidance': None}, '-guidance=None'),
  ({'sampling.guidance.scale': 2.0}, '-guidance.scale=2.0'),
  ({'sampling.churn.s_churn': 1.0}, '-churn=edm,churn.s_churn=1.0'),
  ({'network.dtype': 'bfloat16'}, '-network.dtype=bfloat16'),
  ({'sampling.prompt': 'a/../b | ä'}, '-prompt=a_.._b____'),
  ({'sampling.prompt': 'ab' * 99}, '-prompt=' + 'ab' * 67 + 'a'),
])  # fmt: skip
def test_samples_are_named_by_what_differs_from_the_run(
  changes, expected, tmp_path
):
  """The defaults of another choice are left out; the name is a file's."""
  config = smoke(**BASE)
  folder.write_config(tmp_path, config, models.make(config, tmp_path).facts)
  name = lambda config: provenance.name_of(models.make(config, tmp_path))
  config = store.with_flags(config, [*as_flags(changes)])
  assert name(config) == f'samples{expected}'
  config = store.with_fields(config, {'sampling.name': 'mine'})
  assert name(config) == 'mine'


def test_edits_are_named_by_what_is_set(tmp_path):
  config = smoke()
  folder.write_config(tmp_path, config, models.make(config, tmp_path).facts)
  name = lambda config: provenance.name_of_edit(models.make(config, tmp_path))
  changes = {'edit': 'restore', 'edit.operator': 'blur', 'edit.noise': 5}
  changes |= {'edit.image': 'in/a.png', 'sampling.num_steps': 20}
  config = store.with_flags(config, [*as_flags(changes)])
  assert name(config) == (
    'restore-image=a.png,noise=5.0,num_steps=20,operator=blur,posterior=moment'
  )
  config = store.with_fields(config, {'edit.output': 'mine'})
  assert name(config) == 'mine'


@pytest.mark.parametrize('content', [b'', b'PK damaged', None])
def test_a_file_without_settings_has_none(tmp_path, content):
  path = tmp_path / 'samples.npz'
  if content is None:
    np.savez(path, arr_0=np.zeros(2))
  else:
    path.write_bytes(content)
  assert provenance.read(path) == {}
