"""The command that the judges share says a user's mistakes in one line."""

import numpy as np

from diffusion_jax.metrics.judges import digits_judge
from tests import as_main

# (The arrays of the file, words of the line).
MISTAKES = [
  (
    dict(arr_0=np.zeros((2, 8, 8, 1), np.uint8)),
    'must contain images (arr_0 or images) and their labels',
  ),
  (dict(mu=np.zeros(2), labels=[1, 2]), 'must contain images (arr_0 or images) and their labels'),
  (dict(x=np.zeros(2)), 'has the arrays x;'),
  (dict(arr_0=np.zeros((2, 4, 4, 3), np.uint8), labels=[1, 2]), 'digits must be [N, 8, 8, 1]'),
]


def test_mistakes_of_the_command(tmp_path):
  path = tmp_path / 'samples.npz'
  for arrays, message in MISTAKES:
    np.savez(path, **arrays)
    result = as_main.run(digits_judge, path)
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert result.stderr.startswith('error: ') and message in result.stderr
  for arguments in ((), ('a', 'b'), (tmp_path / 'none.npz',)):
    result = as_main.run(digits_judge, *arguments)
    assert result.returncode == 2 and 'error: ' in result.stderr
  result = as_main.run(digits_judge, '--help')
  assert result.returncode == 0 and 'metrics.judges.digits_judge runs/' in result.stdout
