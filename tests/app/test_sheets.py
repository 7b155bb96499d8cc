import numpy as np
import pytest

from diffusion_jax.app import models, sample_inputs, sheets
from tests.app.conftest import smoke, trial


@pytest.mark.parametrize(
  'labels, n, columns',
  [
    ((), 40, 10),
    ((), 300, 20),
    ((3, 7), 30, 6),
    ((3, 7, 1), 2, 2),
    ((4, 0, 5), 100, 9),
  ],
)
def test_the_classes_of_a_sheet_are_its_columns(labels, n, columns):
  """The pictures [8, 8] have the grey level of their label."""
  config = smoke(**{'sampling.labels': labels, 'sampling.num_samples': n})
  model = models.make(config, 'nowhere')
  grey = 100 + sample_inputs.choose_labels(model, n).astype(np.uint8)
  pictures = np.broadcast_to(grey[:, None, None, None], (n, 8, 8, 1))
  sheet = sheets.sheet(model, pictures)[..., 0]
  height, width = sheet.shape
  rows = -(-n // columns)
  assert (height, width) == (6 * (9 * rows + 1), 6 * (9 * columns + 1))
  places = sheet[30::54, 30::54].astype(int)  # the middle of each
  asked = labels or range(10)
  for i, column in enumerate(places.T):
    shown = set(column.tolist()) - {32}  # places left empty
    assert shown == {100 + asked[i % len(asked)]}


@pytest.mark.parametrize(
  'prompt, n, columns', [('a|b|c', 12, 3), ('a|b', 98, 10)]
)
def test_prompts_are_columns_side_by_side(prompt, n, columns):
  """Two columns of 49 would be a strip."""
  config = trial('shapes_text', **{'sampling.prompt': prompt})
  model = models.make(config, 'nowhere')
  pictures = np.zeros((n, 16, 16, 3), np.uint8)
  height, width, _ = sheets.sheet(model, pictures).shape
  rows = -(-n // columns)
  assert (height, width) == (3 * (rows * 17 + 1), 3 * (columns * 17 + 1))
