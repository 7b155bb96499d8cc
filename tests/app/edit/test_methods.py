"""Methods of edits, of plain networks and of those trained for an edit."""

from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.keys import fold_each
from diffusion_jax.data import small_sets
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from tests.app.conftest import DIGITS, arrays_of, smoke, untrained
from tests.app.edit.conftest import QUICK, picture, run
from tests.app.fields import typed

INPAINTING = {'conditioning.image': 'inpaint'}


@pytest.fixture(scope='module')
def palette(tmp_path_factory):
  """Makes a run on known pixels and labels."""
  return untrained(smoke(**QUICK | INPAINTING), tmp_path_factory.mktemp('runs') / 'palette')


@pytest.mark.parametrize('method, name', [(None, 'odd'), ('reconstruction', 'digit')])
def test_known_pixels_are_the_same_in_the_files_written(plain, files, method, name, capsys):
  """Known pixels are exact in the files, even for grey levels that the run does not have."""
  output = f'a{method}{name}'
  changes = typed(f'edit.method={method} edit.output={output}')
  arrays = run(plain, files, changes, image=name, mask='mask')
  printed = capsys.readouterr().out
  assert 'white is known, 50% of the pixels' in printed
  assert f'{output}_0.png to _1.png\n' in printed
  assert arrays['arr_0'].shape == (2, 8, 8, 1) and arrays['mask'].sum() == 32
  given = picture(files, name)
  for i in range(2):
    result = picture(plain / 'edits', f'{output}_{i}')
    assert_array_equal(result[:4], given[:4])
    assert_array_equal(result, arrays['arr_0'][i, ..., 0])
    assert (result[4:] != given[4:]).any()
  assert (arrays['arr_0'][0] != arrays['arr_0'][1]).any()
  # image, mask, two results
  assert picture(plain / 'edits', output).shape == (12 * 10, 12 * (1 + 4 * 9))


def test_palette_fills_in_unknown_pixels(palette, files):
  changes = INPAINTING | {'edit.label': 3}
  results = run(palette, files, changes, image='digit', mask='mask')['arr_0']
  given = picture(files, 'digit')
  assert_array_equal(results[:, :4, :, 0], given[None, :4].repeat(2, 0))


@pytest.mark.slow
def test_superres_by_reconstruction_has_the_means_asked_for(plain, files):
  """Three steps of an untrained network come closer to them."""
  changes = {'edit': 'superres', 'edit.method': 'reconstruction', 'edit.method.iterations': 4}
  better = run(plain, files, changes, image='small')
  assert better['image'].shape == (4, 4, 1)
  assert better['arr_0'].shape == (2, 8, 8, 1)
  guessed = run(plain, files, changes | {'edit.method.scale': 0.0}, image='small')
  means = lambda x: x.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
  error = lambda x: np.abs(means(x['arr_0']) - better['image'][None, ..., 0])
  assert error(better).mean() < 0.8 * error(guessed).mean()


def test_samples_of_such_a_run_continue_test_images(palette):
  """The sheet shows condition, sample and original; each has its own key."""
  config = smoke(**QUICK | INPAINTING | typed('sampling.num_samples=4 sampling.name=samples'))
  MODES['sample'](config, palette)
  arrays = arrays_of(palette)
  test = small_sets.digits('test')
  truth = DIGITS.x.decode(DIGITS.x.encode(test.x[:4]))
  assert_array_equal(arrays['originals'], truth)
  assert_array_equal(arrays['labels'], test.label[:4])
  known = arrays['conditions'] == truth
  assert 0.1 < known.mean() < 1.0
  assert set(np.unique(arrays['conditions'][~known])) == {128}
  sheet = picture(palette / 'samples', 'samples')
  assert sheet.shape == (6 * (1 + 4 * 9), 6 * (1 + 3 * 9))
  keys = fold_each(stream(config.sampling.seed, 'sampling_images'), np.arange(4))
  model: Any = make_model(config, RunFolder.at(palette))
  x0 = DIGITS.x.encode(test.x[:4])
  expected = jax.jit(model.conditioning.image)(keys, x0)
  # the condition depends on the seed and the number only
  assert_array_equal(arrays['conditions'], DIGITS.x.decode(expected[..., :1]))
  image = conditions.Images(model).choose(2)[0]['image']
  assert_array_equal(image, expected[:2])
