import json

import numpy as np
import pytest
from PIL import Image

from configs import noise_photo
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS


def config(**changes):
  config = noise_photo.get_config('smoke')
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def homework(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('noise')
  PROGRAMS['noise'](config(), str(workdir))
  return workdir


def report(workdir):
  return json.loads((workdir / 'white_noise.json').read_text())


def test_the_default_is_500_descending_alphas():
  from diffusion_jax import build

  full = noise_photo.get_config()
  schedule = build.build_schedule(full)
  alphas = np.asarray(schedule.alphas)
  assert len(alphas) == 500 and (np.diff(alphas) < 0).all()
  np.testing.assert_allclose(alphas[[0, -1]], [0.9998, 0.96], rtol=1e-6)
  assert (full.noise.size, full.noise.image) == (600, 'china.jpg')


def test_pictures(homework):
  with Image.open(homework / 'strip.png') as strip:
    assert strip.size == (4 + 6 * (64 + 4), 64 + 2 * 4)
  with Image.open(homework / 'noise.gif') as gif:
    assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
    assert gif.size == (64, 64)
  for name in ('schedule.png', 'spectrum.png'):
    with Image.open(homework / name) as plot:
      assert np.asarray(plot.convert('L')).std() > 10  # something is drawn


def test_white_noise_json(homework):
  found = report(homework)
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


def test_few_steps_leave_the_picture_and_only_the_correlation_tells(tmp_path):
  """The lecture's five alphas: nowhere near noise."""
  alphas = (0.99, 0.98, 0.97, 0.96, 0.95)
  PROGRAMS['noise'](config(**{'schedule.alphas': alphas}), str(tmp_path))
  found = report(tmp_path)
  assert found['steps'] == 5
  np.testing.assert_allclose(found['alpha_bar_T'], 0.858277728, rtol=1e-6)
  assert found['correlation_with_x']['value'] > 0.7


def test_ones_own_photo_of_any_shape_and_mode(tmp_path):
  photo = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
  Image.fromarray(photo).save(tmp_path / 'me.png')
  changes = {
    'noise.image': str(tmp_path / 'me.png'),
    'noise.fit': 'scale',
    'schedule.alphas': (0.5,),
    'noise.size': 32,
  }
  PROGRAMS['noise'](config(**changes), str(tmp_path / 'out'))
  assert report(tmp_path / 'out')['steps'] == 1
  with Image.open(tmp_path / 'out' / 'noise.gif') as gif:
    assert gif.n_frames == 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'schedule.alphas': (0.9, 1.2)},
      r'config.schedule: alphas\[1\] = 1.2, step 2',
    ),
    ({'schedule.alphas': (0.0, 0.9)}, r'alphas\[0\] = 0, step 1 of 2'),
    ({'schedule.alphas': ()}, 'list of alphas is empty'),
    ({'schedule.alphas': ('a',)}, 'alphas must be a list of numbers'),
    ({'noise.image': 'none.jpg'}, 'config.noise: there is no image none.jpg'),
    ({'noise.image': __file__}, 'test_noise.py is not an image'),
    ({'noise.fit': 'pad'}, "fit 'pad' is not one of"),
    ({'noise.image': ''}, 'config.noise: which picture. Give --config.noise.i'),
    ({'schedule.name': 'linear_vp'}, 'has no steps'),
  ],
)
def test_wrong_input(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    PROGRAMS['noise'](config(**changes), str(tmp_path / 'x'))
  assert not (tmp_path / 'x').exists()


def test_a_zero_as_the_last_alpha_ends_in_pure_noise(tmp_path):
  changes = {'schedule.alphas': (0.9, 0.5, 0.0)}
  PROGRAMS['noise'](config(**changes), str(tmp_path))
  found = report(tmp_path)
  assert found['alpha_bar_T'] == 0.0
  assert found['correlation_with_x']['expected'] == 0.0
