"""The command that the judges share."""

import numpy as np

from diffusion_jax.metrics.judges import digits_judge
from tests import as_main


def test_mistakes_of_the_command(tmp_path):
  path, pictures, labels = tmp_path / 'samples.npz', np.zeros((2, 8, 8, 1), np.uint8), [1, 2]
  for arrays, message in (
    ({'arr_0': pictures}, 'must contain images (arr_0 or images) and their la'),
    ({'mu': np.zeros(2), 'labels': labels}, 'must contain images (arr_0 or im'),
    ({'x': np.zeros(2)}, 'has the arrays x; '),
    ({'arr_0': np.zeros((2, 4, 4, 3), np.uint8), 'labels': [1, 2]}, '8, 8, 1]'),
  ):
    np.savez(path, **arrays)
    result = as_main.run(digits_judge, path)
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert result.stderr.startswith('error: ') and message in result.stderr
  for arguments in ((), ('a', 'b'), (tmp_path / 'none.npz',)):
    result = as_main.run(digits_judge, *arguments)
    assert result.returncode == 2 and 'error: ' in result.stderr
  result = as_main.run(digits_judge, '--help')
  assert result.returncode == 0 and 'metrics.judges.digits_judge runs/' in result.stdout
