import json

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app.config import store
from diffusion_jax.app.modes import MODES
from tests.app.conftest import as_flags, read
from tests.app.fields import within

SMALL = {'noise.size': 64, 'noise.frames': 5, 'noise.num_draws': 10}


def config(**changes):
  return store.with_flags(read('noise_photo'), [*as_flags(SMALL | changes)])


def noise(workdir, **changes):
  MODES['noise'](config(**changes), str(workdir))
  return json.loads((workdir / 'white_noise.json').read_text())


@pytest.fixture(scope='module')
def homework(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('noise')
  return workdir, noise(workdir)


def test_the_default_is_500_descending_alphas():
  full = read('noise_photo')
  schedule = full.schedule.make()
  alphas = np.asarray(schedule.alphas)
  assert len(alphas) == 500 and (np.diff(alphas) < 0).all()
  np.testing.assert_allclose(alphas[[0, -1]], [0.9998, 0.96], rtol=1e-6)
  assert (full.noise.size, full.noise.image) == (600, 'china.jpg')


def test_pictures(homework):
  workdir, _ = homework
  with Image.open(workdir / 'strip.png') as strip:
    assert strip.size == (4 + 6 * (64 + 4), 64 + 2 * 4)
  with Image.open(workdir / 'noise.gif') as gif:
    assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
    assert gif.size == (64, 64)
  for name in ('schedule.png', 'spectrum.png'):
    with Image.open(workdir / name) as plot:
      assert np.asarray(plot.convert('L')).std() > 10  # something is drawn


def test_white_noise_json(homework):
  _, found = homework
  assert found['steps'] == 500 and found['dimensions'] == 64 * 64 * 3
  per_dim, total = found['distance_per_dim'], found['distance_total']
  error = total['standard_error']
  assert abs(total['estimate'] - total['closed_form']) < 5 * error
  for name in ('estimate', 'standard_error', 'closed_form', 'white_noise'):
    np.testing.assert_allclose(total[name] / (64 * 64 * 3), per_dim[name])
  assert per_dim['white_noise'] == 2.0
  spread = 5 * (2 / found['dimensions']) ** 0.5
  assert abs(per_dim['closed_form'] - per_dim['averaged_over_z']) < spread
  correlation = found['correlation_with_x']
  noise = correlation['of_independent_noise']
  assert abs(correlation['value'] - correlation['expected']) < 5 * noise
  for part in ('distance_total', 'distance_per_dim', 'correlation_with_x'):
    assert len(found[part]['meaning']) > 100


def with_alphas(*alphas):
  return {'schedule': 'alphas', 'schedule.values': alphas}


def test_few_steps_leave_the_picture_and_only_the_correlation_tells(tmp_path):
  """The lecture's five alphas end nowhere near noise."""
  found = noise(tmp_path, **with_alphas(0.99, 0.98, 0.97, 0.96, 0.95))
  assert found['steps'] == 5
  np.testing.assert_allclose(found['alpha_bar_T'], 0.858277728, rtol=1e-6)
  assert found['correlation_with_x']['value'] > 0.7


def test_ones_own_photo_of_any_shape_and_mode(tmp_path):
  photo = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
  Image.fromarray(photo).save(tmp_path / 'me.png')
  changes = within('noise', image=str(tmp_path / 'me.png'), fit='scale', size=32)
  out = tmp_path / 'out'
  out.mkdir()
  assert noise(out, **changes, **with_alphas(0.5))['steps'] == 1
  with Image.open(out / 'noise.gif') as gif:
    assert gif.n_frames == 2  # pyright: ignore[reportAttributeAccessIssue]
