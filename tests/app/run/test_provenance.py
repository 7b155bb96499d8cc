import numpy as np
import pytest

from diffusion_jax.app.run import provenance
from diffusion_jax.errors import UserError

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
  provenance.write_npz(path, {}, SETTINGS)
  assert provenance.read(path) == SETTINGS
  provenance.check_same(path, SETTINGS | {'run': 'moved'}, 'x', 'sampling.name')
  other = SETTINGS | {'sampling': SETTINGS['sampling'] | {'seed': 2}}
  with pytest.raises(UserError, match=r'x has other .*seed.*sampling\.name'):
    provenance.check_same(path, other, 'x', 'sampling.name')


@pytest.mark.parametrize('content', [b'', b'PK damaged', None])
def test_a_file_without_settings_has_none(tmp_path, content):
  path = tmp_path / 'samples.npz'
  if content is None:
    np.savez(path, arr_0=np.zeros(2))
  else:
    path.write_bytes(content)
  assert provenance.read(path) == {}
