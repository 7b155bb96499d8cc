import numpy as np
import pytest

from diffusion_jax.app import models, sample_inputs, sheets
from tests.app.conftest import smoke, trial


@pytest.mark.parametrize(
  'labels, n, columns',
  [((), 40, 10), ((3, 7), 30, 6), ((3, 7, 1), 2, 2), ((4, 0, 5), 100, 9)],
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


def test_a_sheet_has_a_column_for_each_prompt():
  config = trial('shapes_text', **{'sampling.prompt': 'a|b|c'})
  model = models.make(config, 'nowhere')
  pictures = np.zeros((12, 16, 16, 3), np.uint8)
  height, width, _ = sheets.sheet(model, pictures).shape
  assert (height, width) == (3 * (4 * 17 + 1), 3 * (3 * 17 + 1))


def test_frames_are_thinned_from_the_first_to_the_last():
  assert sheets.thin(np.arange(100), 4).tolist() == [0, 33, 66, 99]
  assert sheets.thin(np.arange(3), 50).tolist() == [0, 1, 2]
