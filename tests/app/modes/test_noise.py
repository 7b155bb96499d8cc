import json

import numpy as np
from PIL import Image

from diffusion_jax.app.config import store
from diffusion_jax.app.modes import MODES
from tests.app.conftest import as_flags, read
from tests.app.fields import within


def test_the_default_is_500_descending_alphas():
  full = read('noise_photo')
  schedule = full.schedule.make()
  alphas = np.asarray(schedule.alphas)
  assert len(alphas) == 500 and (np.diff(alphas) < 0).all()
  np.testing.assert_allclose(alphas[[0, -1]], [0.9998, 0.96], rtol=1e-6)
  assert (full.noise.size, full.noise.image) == (600, 'china.jpg')


def test_ones_own_photo_of_any_shape_and_mode(tmp_path):
  photo = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
  Image.fromarray(photo).save(tmp_path / 'me.png')
  fields = within('noise', image=str(tmp_path / 'me.png'), fit='scale', size=32, num_draws=10)
  fields |= within('schedule', 'alphas', values=(0.5,))
  out = tmp_path / 'out'
  MODES['noise'](store.with_flags(read('noise_photo'), [*as_flags(fields)]), str(out))
  assert json.loads((out / 'white_noise.json').read_text())['steps'] == 1
  with Image.open(out / 'noise.gif') as gif:
    assert gif.n_frames == 2  # pyright: ignore[reportAttributeAccessIssue]
