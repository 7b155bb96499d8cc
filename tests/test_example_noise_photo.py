"""The pictures of a noised photo, and how white its noise is."""

import json

import numpy as np
import pytest
from PIL import Image

from examples import noise_photo

SIDE = 64


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
  """A picture whose mean is far from grey."""
  path = tmp_path_factory.mktemp('photo') / 'me.png'
  values = np.random.default_rng(0).integers(0, 128, (SIDE, SIDE + 9, 3), np.uint8)
  Image.fromarray(values).save(path)
  return path


def noised(photo, out, *more):
  noise_photo.main([f'--image={photo}', f'--size={SIDE}', f'--out={out}', *more])
  return json.loads((out / 'white_noise.json').read_text())


def test_pictures_and_numbers_of_white_noise(photo, tmp_path):
  """Within five standard errors of the closed forms, after 500 steps."""
  found = noised(photo, tmp_path)
  with Image.open(tmp_path / 'strip.png') as strip:
    assert strip.size == (4 + 6 * (SIDE + 4), SIDE + 2 * 4)
  with Image.open(tmp_path / 'noise.gif') as gif:
    assert gif.n_frames == 51  # pyright: ignore[reportAttributeAccessIssue]
  with Image.open(tmp_path / 'spectrum.png') as plot:
    assert np.asarray(plot.convert('L')).std() > 10  # something is drawn
  alpha_bar = np.prod(np.linspace(0.9998, 0.96, 500))
  assert found['steps'] == 500 and found['alpha_bar_T'] == pytest.approx(alpha_bar, rel=1e-4)
  assert abs(found['mean'] - found['closed_form']) < 5 * found['standard_error']
  # E |eps - z|^2 = 1 + z^2, whose mean over z_T is 2 but for the photo's part
  assert abs(found['closed_form'] - 2.0) < 5 * (2 / (3 * SIDE**2)) ** 0.5
  error = abs(found['correlation'] - found['expected_correlation'])
  assert error < 5 * found['correlation_of_independent_noise']


def test_few_steps_leave_the_picture_and_only_the_correlation_tells(photo, tmp_path):
  """The lecture's five alphas end nowhere near noise."""
  file = tmp_path / 'alphas.txt'
  file.write_text('0.99\n0.98\n0.97\n0.96\n0.95\n')
  found = noised(photo, tmp_path / 'out', f'--alphas={file}')
  assert found['steps'] == 5
  assert found['alpha_bar_T'] == pytest.approx(0.858277728)
  assert found['correlation'] > 0.5


@pytest.mark.parametrize(
  'flags, message',
  [
    ('--image=none.jpg', 'image none.jpg not found'),
    ('--size=0', 'size is 0: it must be at least 8'),
    ('--alphas=none.txt', 'none.txt not found'),
  ],
)
def test_mistakes_are_one_line(flags, message, capsys):
  with pytest.raises(SystemExit) as end:
    noise_photo.main(flags.split())
  assert end.value.code == 2 and f'error: {message}' in capsys.readouterr().err
