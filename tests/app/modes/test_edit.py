"""--mode=edit and networks conditioned on images, tiny ones."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app import models
from diffusion_jax.app.edits import methods, pictures
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.modes import MODES, edit
from diffusion_jax.core.keys import stream
from diffusion_jax.data import small_sets
from tests.app.conftest import DIGITS, arrays_of, normal_params, smoke, untrained
from tests.app.fields import within

QUICK = within('training', num_steps=1, checkpoint_every=1)
QUICK |= within('sampling', num_steps=3, batch_size=4)
QUICK |= within('optimizer', warmup_steps=0)
QUICK |= within('edit', num_samples=2)
COLOUR = within('data', 'synthetic', image_shape=(8, 8, 3))
COLOUR |= within('conditioning', labels=False, image='colorize')
INPAINTING = {'conditioning.image': 'inpaint'}


@pytest.fixture(scope='module')
def palette(tmp_path_factory):
  """Trains a run on known pixels and labels, with a preview."""
  workdir = tmp_path_factory.mktemp('runs') / 'palette'
  changes = INPAINTING | {'training.sample_every': 1}
  MODES['train'](smoke(**QUICK | changes), workdir)
  return workdir


@pytest.fixture(scope='module')
def colour(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'colour'
  return untrained(smoke(**QUICK | COLOUR), workdir)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Writes a digit, a mask, and pictures of another size and colours."""
  folder = tmp_path_factory.mktemp('pictures')
  x = DIGITS.x.encode(small_sets.digits('test').x[0])
  digit = DIGITS.x.decode(x)[..., 0]
  colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  known = np.repeat([255, 0], 32).astype(np.uint8).reshape(8, 8)
  pictures = {
    'digit': digit,
    'odd': colours[..., 0],  # grey levels that digits do not have
    'mask': known,
    'small': digit[::2, ::2],
    'colours': colours,
  }
  for name, picture in pictures.items():
    Image.fromarray(picture).save(folder / f'{name}.png')
  return folder


def picture(files, name):
  with Image.open(files / f'{name}.png') as file:
    return np.asarray(file)


NUMBERS = itertools.count()


def config_of(files, changes, fields):
  """Returns a config whose edit reads the files that `fields` name."""
  paths = {f'edit.{k}': str(files / f'{v}.png') for k, v in fields.items()}
  name = {'edit.output': f'edit{next(NUMBERS)}'}
  return smoke(**QUICK | paths | name | dict(changes))


def run(workdir, files, changes=(), **fields):
  """Edits; values of `fields` are names of files. Returns the npz."""
  config = config_of(files, dict(changes), fields)
  MODES['edit'](config, workdir)
  return arrays_of(workdir, config.edit.output, 'edits')


@pytest.mark.parametrize(
  'method, name', [(None, 'odd'), ('replace', 'digit'), ('reconstruction', 'odd')]
)
def test_known_pixels_are_the_same_in_the_files_written(plain, files, method, name, capsys):
  """They are exact, even for grey levels that the run does not have."""
  output = f'a{method}{name}'
  changes = {'edit.method': method, 'edit.output': output}
  arrays = run(plain, files, changes, image=name, mask='mask')
  printed = capsys.readouterr().out
  assert 'white is known, 50% of the pixels' in printed
  assert f'{output}_0.png to _1.png\n' in printed
  assert arrays['arr_0'].shape == (2, 8, 8, 1) and arrays['mask'].sum() == 32
  given = picture(files, name)
  for i in range(2):
    result = picture(plain / 'edits', f'{output}_{i}')
    np.testing.assert_array_equal(result[:4], given[:4])
    np.testing.assert_array_equal(result, arrays['arr_0'][i, ..., 0])
    assert (result[4:] != given[4:]).any()
  assert (arrays['arr_0'][0] != arrays['arr_0'][1]).any()
  # image, mask, two results
  assert picture(plain / 'edits', output).shape == (12 * 10, 12 * (1 + 4 * 9))


def write_mask(path, colours, alpha):
  """Writes grey colours [8, 8] with alpha [8, 8], as an editor does."""
  Image.fromarray(np.stack([colours, alpha], -1).astype(np.uint8)).save(path)


@pytest.mark.parametrize('name', ['white on transparent', 'erased', 'opaque', '16 bits'])
def test_a_mask_is_its_alpha_or_its_white(files, name):
  """An alpha of 255 everywhere does not count."""
  known = np.arange(64).reshape(8, 8) % 3 == 0
  path, full = files / f'{name}.png', np.full((8, 8), 255)
  if name == 'white on transparent':
    write_mask(path, full, 255 * known)
  elif name == 'erased':
    write_mask(path, np.arange(64).reshape(8, 8) * 4, 255 * known)
  elif name == 'opaque':
    write_mask(path, 255 * known, full)
  else:
    Image.fromarray((65535 * known).astype(np.uint16)).save(path)
  mask = pictures.read_mask(str(path), (8, 8, 1))
  np.testing.assert_array_equal(mask[..., 0], known)


def test_masks_that_say_nothing_are_refused(files):
  full, half = np.full((8, 8), 255), np.repeat([255, 0], 32).reshape(8, 8)
  for colours, alpha, message in (
    (0 * full, half, 'm.png is black on transparent, which can be read both'),
    (half, 0 * full + 200, 'm.png is opaque everywhere: opaque pixels stay'),
  ):
    write_mask(files / 'm.png', colours, alpha)
    with pytest.raises(ValueError, match=message):
      pictures.read_mask(str(files / 'm.png'), (8, 8, 1))


def test_what_is_known_is_what_the_operator_makes_of_the_picture():
  model = models.make(smoke(), 'nowhere')
  x = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 8, 8, 1))
  mask, x = np.arange(64).reshape(1, 8, 8, 1) % 3 == 0, x.astype(np.float32)
  known = pictures.Inpaint().known(model, {'image': x, 'mask': mask})
  np.testing.assert_array_equal(known.y, np.where(mask, x, 0.0))
  np.testing.assert_array_equal(known.forward(x), known.y)
  small = x.reshape(2, 4, 2, 4, 2, 1).mean(axis=(2, 4))
  known = pictures.Superres(factor=2).known(model, {'image': small})
  np.testing.assert_allclose(known.forward(x), known.y, atol=1e-6)


def test_palette_fills_in_unknown_pixels(palette, files):
  changes = INPAINTING | {'edit.label': 3}
  results = run(palette, files, changes, image='digit', mask='mask')['arr_0']
  given = picture(files, 'digit')
  np.testing.assert_array_equal(results[:, :4, :, 0], given[None, :4].repeat(2, 0))


def test_sdedit_of_no_strength_is_the_picture(plain, files):
  changes = {'edit': 'sdedit', 'edit.strength': 0.0}
  results = run(plain, files, changes, image='digit')['arr_0']
  given = picture(files, 'digit')
  np.testing.assert_array_equal(results[1, ..., 0], given)
  changes = {'edit': 'sdedit', 'edit.strength': 1.0, 'edit.label': 4}
  results = run(plain, files, changes, image='digit', mask='mask')['arr_0']
  np.testing.assert_array_equal(results[1, :4, :, 0], given[:4])
  assert (results[1, 4:, :, 0] != given[4:]).any()


def test_an_interpolation_is_not_clipped():
  """If eps = 30 for any x, x_0 leaves [-1, 1] between the ends."""
  config = smoke(**QUICK | {'sampling.clip': True, 'edit': 'interpolate'})
  model: Any = models.make(config, 'nowhere')
  params = normal_params(model, deviation=0)
  params['network']['conv_out']['bias'] += 30.0
  ends = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 8, 8, 1))
  ends = ends.astype(np.float32)
  inputs = {
    'image': ends[:1],
    'image2': ends[1:],
    'weight': np.float32([0.0, 1.0]),
    'cond': {'label': np.zeros(2, np.int32)},
  }
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def draw(params, keys, inputs):
    plan = model.plan(params)
    batch = methods.Batch(plan, keys, inputs['cond'], inputs)
    return pictures.Interpolate().results(model, batch)['x']

  results = draw(params, keys, inputs)
  np.testing.assert_allclose(results, ends, atol=1e-3)


def test_superres_by_reconstruction_has_the_means_asked_for(plain, files):
  """Three steps of an untrained network come closer to them."""
  guided = {'edit.method': 'reconstruction'}
  changes = {'edit': 'superres', 'edit.method.iterations': 4} | guided
  better = run(plain, files, changes, image='small')
  assert better['image'].shape == (4, 4, 1)
  assert better['arr_0'].shape == (2, 8, 8, 1)
  guessed = run(plain, files, changes | {'edit.method.scale': 0.0}, image='small')
  means = lambda x: x.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
  error = lambda x: np.abs(means(x['arr_0']) - better['image'][None, ..., 0])
  assert error(better).mean() < 0.8 * error(guessed).mean()


def test_colours_by_a_run_that_learned_them(colour, files, capsys):
  changes = COLOUR | {'edit': 'colorize'}
  arrays = run(colour, files, changes, image='colours')
  assert 'its colours are left out' in capsys.readouterr().out
  assert arrays['image'].shape == (8, 8, 1)
  assert arrays['arr_0'].shape == (2, 8, 8, 3)
  other = run(colour, files, changes, image='digit')['arr_0']
  assert (other != arrays['arr_0']).any()  # the network sees the picture


def test_samples_of_such_a_run_continue_test_images(palette):
  """The sheet shows condition, sample and original; each has its own key."""
  assert (palette / 'samples' / 'step_00000001.png').exists()
  four = {'sampling.num_samples': 4, 'sampling.name': 'samples'}
  config = smoke(**QUICK | INPAINTING | four)
  MODES['sample'](config, palette)
  arrays = arrays_of(palette)
  test = small_sets.digits('test')
  truth = DIGITS.x.decode(DIGITS.x.encode(test.x[:4]))
  np.testing.assert_array_equal(arrays['originals'], truth)
  np.testing.assert_array_equal(arrays['labels'], test.label[:4])
  known = arrays['conditions'] == truth
  assert 0.1 < known.mean() < 1.0
  assert set(np.unique(arrays['conditions'][~known])) == {128}
  sheet = picture(palette / 'samples', 'samples')
  assert sheet.shape == (6 * (1 + 4 * 9), 6 * (1 + 3 * 9))
  root = stream(config.sampling.seed, 'sampling_images')
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(np.arange(4))
  model: Any = models.make(config, palette)
  x0 = DIGITS.x.encode(test.x[:4])
  expected = jax.jit(model.conditioning.image)(keys, x0)
  # the condition depends on the seed and the number only
  for n in (4, 2):
    image = conditions.Images(model).choose(n)[0]['image']
    np.testing.assert_array_equal(image, expected[:n])


def chosen_label(**changes):
  config = smoke(**QUICK | changes)
  model: Any = models.make(config, 'nowhere')
  section = config.edit.make()
  return edit.choose_label(model, section, section.count())


def test_the_label_is_that_of_all_samples():
  np.testing.assert_array_equal(chosen_label(**{'edit.label': 3}), [3, 3])
  assert chosen_label() is None  # the null class
