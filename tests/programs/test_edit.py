"""--mode=edit and networks conditioned on images, tiny ones."""

import functools
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import build, families
from diffusion_jax.core.keys import stream
from diffusion_jax.data import sources
from diffusion_jax.data.images import scale, to_uint8
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, edit
from diffusion_jax.runs import sample_inputs
from tests.programs.conftest import smoke, unet_smoke, untrained

QUICK = {
  'training.num_steps': 1,
  'training.checkpoint_every': 1,
  'sampling.num_steps': 3,
  'sampling.num_samples': 4,
  'sampling.batch_size': 4,
  'optimizer.warmup_steps': 0,
  'edit.num_samples': 2,
  'edit.num_resamples': 2,
  'edit.jump': 1,
}
COLOUR = {
  'data.name': 'synthetic',
  'data.image_shape': (8, 8, 3),
  'data.num_levels': 256,
  'conditioning.labels': False,
  'conditioning.image': 'colorize',
}
INPAINTING = {'conditioning.image': 'inpaint'}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'plain'
  return untrained(smoke(**QUICK), workdir, deviation=0.1)


@pytest.fixture(scope='module')
def palette(tmp_path_factory):
  """Trained on known pixels and labels; with a preview."""
  workdir = tmp_path_factory.mktemp('runs') / 'palette'
  changes = INPAINTING | {'training.sample_every': 1}
  PROGRAMS['train'](smoke(**QUICK | changes), str(workdir))
  return workdir


@pytest.fixture(scope='module')
def colour(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'colour'
  return untrained(smoke(**QUICK | COLOUR), workdir)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Pictures: a digit and another, a mask, a small, a large, a coloured one."""
  folder = tmp_path_factory.mktemp('pictures')
  digits = to_uint8(scale(sources.digits('test').images[:2], 17), 17)[..., 0]
  colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  known = np.repeat([255, 0], 32).astype(np.uint8).reshape(8, 8)
  pictures = {
    'digit': digits[0],
    'other': digits[1],
    'odd': colours[..., 0],  # grey levels that digits do not have
    'mask': known,
    'white': np.full((8, 8), 255, np.uint8),
    'small': digits[0][::2, ::2],
    'large': np.zeros((9, 8), np.uint8),
    'colours': colours,
  }
  for name, picture in pictures.items():
    Image.fromarray(picture).save(folder / f'{name}.png')
  (folder / 'text.png').write_text('no picture')
  return folder


def test_the_pictures_are_named():
  assert edit.name_pictures('edits/a', 1) == 'edits/a_0.png'
  assert edit.name_pictures('edits/a', 3) == 'edits/a_0.png to _2.png'


NUMBERS = itertools.count()


def run(workdir, files, changes=(), **fields):
  """Edits; values of `fields` are names of files. Returns the npz."""
  paths = {f'edit.{k}': str(files / f'{v}.png') for k, v in fields.items()}
  name = {'edit.name': f'edit{next(NUMBERS)}'}
  config = smoke(**QUICK | paths | name | dict(changes))
  PROGRAMS['edit'](config, str(workdir))
  with np.load(workdir / 'edits' / f'{config.edit.name}.npz') as found:
    return dict(found)


@pytest.mark.parametrize('fields', [
  {'mask': 'mask', 'task': 'inpaint'},
  pytest.param({'task': 'sdedit'}, marks=pytest.mark.slow),
  pytest.param(
    {'image2': 'other', 'task': 'interpolate'}, marks=pytest.mark.slow
  ),
])  # fmt: skip
def test_images_are_the_same_in_any_batch_on_any_devices(plain, files, fields):
  """Five at once on one device, and two at a time on two."""
  fields = dict(fields)
  changes = {'edit.task': fields.pop('task'), 'edit.num_samples': 5}
  small = {'sampling.batch_size': 2, 'training.mesh': (2, 1)}
  both = [
    run(plain, files, changes | more, image='digit', **fields)['arr_0']
    for more in ({'sampling.batch_size': 8}, small)
  ]
  assert both[0].shape == (5, 8, 8, 1)
  assert (both[0][0] != both[0][4]).any()
  # of 17 grey levels; rounding may move a pixel by one
  assert (both[0] != both[1]).mean() < 0.02


@pytest.mark.parametrize(
  'method, picture',
  [('', 'odd'), ('replace', 'digit'), ('reconstruction', 'odd')],
)
def test_known_pixels_are_the_same_in_the_files_written(
  plain, files, method, picture, capsys
):
  """To the bit, also of grey levels that the run does not have."""
  changes = {'edit.method': method, 'edit.name': f'a{method}{picture}'}
  found = run(plain, files, changes, image=picture, mask='mask')
  printed = capsys.readouterr().out
  assert 'white is known, 50% of the pixels' in printed
  assert '_0.png to _1.png\n' in printed
  assert found['arr_0'].shape == (2, 8, 8, 1) and found['mask'].sum() == 32
  with Image.open(files / f'{picture}.png') as file:
    given = np.asarray(file)
  for i in range(2):
    with Image.open(plain / 'edits' / f'a{method}{picture}_{i}.png') as file:
      made = np.asarray(file)
    np.testing.assert_array_equal(made[:4], given[:4])
    np.testing.assert_array_equal(made, found['arr_0'][i, ..., 0])
  assert (made[4:] != given[4:]).any()
  assert (found['arr_0'][0] != found['arr_0'][1]).any()
  with Image.open(plain / 'edits' / f'a{method}{picture}.png') as sheet:
    assert sheet.size == (12 * (1 + 4 * 9), 12 * 10)  # image, mask, two results


def write_mask(path, colours, alpha):
  """Colours [8, 8] of grey and alpha [8, 8], as drawn in an editor."""
  Image.fromarray(np.stack([colours, alpha], -1).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
  'name', ['white on transparent', 'erased', 'opaque', '16 bits']
)
def test_a_mask_is_its_alpha_or_its_white(files, name):
  """Erased from a picture; an alpha that is 255 everywhere does not count."""
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
  found = edit.read_mask(smoke(**{'edit.mask': str(path)}))
  np.testing.assert_array_equal(found[..., 0], known)


def test_masks_that_say_nothing_are_refused(files):
  full, half = np.full((8, 8), 255), np.repeat([255, 0], 32).reshape(8, 8)
  for colours, alpha, message in (
    (0 * full, half, 'm.png is black on transparent, which can be read both'),
    (half, 0 * full + 200, 'm.png is opaque everywhere: opaque pixels are kno'),
  ):
    write_mask(files / 'm.png', colours, alpha)
    with pytest.raises(ValueError, match=message):
      edit.read_mask(smoke(**{'edit.mask': str(files / 'm.png')}))


def test_palette_fills_in_unknown_pixels(palette, files):
  changes = {'edit.label': 3}
  found = run(palette, files, changes, image='digit', mask='mask')['arr_0']
  given = np.asarray(Image.open(files / 'digit.png'))
  np.testing.assert_array_equal(
    found[:, :4, :, 0], given[None, :4].repeat(2, 0)
  )


def test_sdedit_of_no_strength_is_the_picture(plain, files):
  changes = {'edit.task': 'sdedit', 'edit.strength': 0.0}
  found = run(plain, files, changes, image='digit')
  given = np.asarray(Image.open(files / 'digit.png'))
  np.testing.assert_array_equal(found['arr_0'][1, ..., 0], given)
  changes = {'edit.task': 'sdedit', 'edit.strength': 1.0, 'edit.label': 4}
  found = run(plain, files, changes, image='digit', mask='mask')['arr_0']
  np.testing.assert_array_equal(found[1, :4, :, 0], given[:4])
  assert (found[1, 4:, :, 0] != given[4:]).any()


def test_interpolation_goes_from_one_to_the_other(files, tmp_path):
  """Guided by the scale and the threshold given; both change the way."""
  plain = untrained(unet_smoke(**QUICK), tmp_path, deviation=0.1)
  changes = {'edit.task': 'interpolate', 'edit.num_samples': 3}
  changes |= {'edit.label': 3, 'sampling.num_steps': 200}
  found = [
    run(plain, files, changes | more, image='digit', image2='other')['arr_0']
    for more in (
      {},
      {'sampling.guidance_scale': 30.0},
      {'sampling.dynamic_threshold': 0.5},
    )
  ]
  for end, name in ((0, 'digit'), (2, 'other')):
    given = np.asarray(Image.open(files / f'{name}.png'), float)
    away = np.abs(found[0][..., 0] - given).mean(axis=(1, 2))
    assert away[end] < 2.0 and away[1] > 4.0
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert (found[i] != found[j]).any()


def test_an_interpolation_is_not_clipped():
  """Of eps = 30 for any x: x_0 leaves [-1, 1] on the way, ends do not move."""
  config = smoke(**QUICK | {'sampling.clip': True})
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), families.abstract_params(config)
  )
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
  draw = jax.jit(functools.partial(edit.interpolate, '', config))
  found = draw(params, {}, keys, inputs)
  np.testing.assert_allclose(found, ends, atol=1e-3)


def test_superres_by_reconstruction_has_the_means_asked_for(plain, files):
  """Or comes closer to them: three steps of a network with little training."""
  changes = {'edit.task': 'superres', 'edit.iterations': 4}
  found = run(plain, files, changes, image='small')
  assert found['image'].shape == (4, 4, 1)
  assert found['arr_0'].shape == (2, 8, 8, 1)
  guessed = run(plain, files, changes | {'edit.scale': 0.0}, image='small')
  means = lambda x: x.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
  error = lambda x: np.abs(means(x['arr_0']) - found['image'][None, ..., 0])
  assert error(found).mean() < 0.8 * error(guessed).mean()


def test_colours_by_a_run_that_learned_them(colour, files, capsys):
  found = run(colour, files, {'edit.task': 'colorize'}, image='colours')
  assert 'its colours are left out' in capsys.readouterr().out
  assert found['image'].shape == (8, 8, 1)
  assert found['arr_0'].shape == (2, 8, 8, 3)


def test_samples_of_such_a_run_continue_test_images(palette):
  """Beside one another: given, made, true; each of its own key."""
  assert (palette / 'samples' / 'step_00000001.png').exists()
  config = smoke(**QUICK | INPAINTING)
  PROGRAMS['sample'](config, str(palette))
  with np.load(palette / 'samples' / 'samples.npz') as found:
    found = dict(found)
  test = sources.digits('test')
  truth = to_uint8(scale(test.images[:4], 17), 17)
  np.testing.assert_array_equal(found['originals'], truth)
  np.testing.assert_array_equal(found['labels'], test.labels[:4])
  known = found['conditions'] == truth
  assert 0.1 < known.mean() < 1.0
  assert set(np.unique(found['conditions'][~known])) == {128}
  with Image.open(palette / 'samples' / 'samples.png') as sheet:
    assert sheet.size == (6 * (1 + 3 * 9), 6 * (1 + 4 * 9))
  root = stream(config.sampling.seed, 'sampling_images')
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(np.arange(4))
  make = build.build_image_condition(config)
  expected = jax.jit(make)(keys, scale(test.images[:4], 17))
  image = sample_inputs.choose_images(config, 4).image
  np.testing.assert_array_equal(image, expected)
  # the condition depends on seed and number alone
  two, four = (
    sample_inputs.choose_images(smoke(**QUICK | INPAINTING | {
      'sampling.num_samples': n
    }), n).image for n in (2, 4)
  )  # fmt: skip
  np.testing.assert_array_equal(two, four[:2])


def test_the_bound_of_such_a_run_is_that_given_the_image(palette):
  changes = {'evaluation.num_images': 4, 'evaluation.batch_size': 4}
  changes['evaluation.num_steps'] = 2
  PROGRAMS['evaluate'](smoke(**QUICK | INPAINTING | changes), str(palette))
  assert (palette / 'evaluation' / 'elbo-test' / 'result.json').exists()


@pytest.mark.parametrize(
  'changes, fields, message',
  [
    ({}, {}, r'config.edit: which image\? Give --config.edit.image='),
    ({}, {'image': 'digit'}, r'which mask\? Give --config.edit.mask='),
    ({}, {'image': 'none', 'mask': 'mask'}, 'there is no image .*none.png'),
    ({}, {'image': 'text', 'mask': 'mask'}, 'is not an image that Pillow'),
    (
      {},
      {'image': 'large', 'mask': 'mask'},
      r'image .*large.png has 8x9 pixels \(width x height\), 8x8 are needed',
    ),
    ({}, {'image': 'digit', 'mask': 'large'}, 'mask .*large.png has 8x9 pi'),
    ({}, {'image': 'digit', 'mask': 'white'}, 'is white everywhere: white pix'),
    ({'edit.task': 'paint'}, {}, "'paint' .did you mean 'inpaint'.. is not on"),
    ({'edit.method': 'dps'}, {}, "edit.method='dps' is not one of repaint"),
    ({'edit.method': 'palette'}, {}, 'needs a run with conditioning.image=inp'),
    ({'edit.label': 10}, {}, r'edit.label=10 is out of range, .* 0\.\.9'),
    ({'edit.num_samples': 0}, {}, 'edit.num_samples=0 is not in'),
    (
      {'edit.task': 'sdedit', 'edit.strength': 1.5},
      {'image': 'digit'},
      r'config.edit.strength=1.5 is not in \[0, 1\]',
    ),
    ({'edit.task': 'sdedit', 'edit.method': 'repaint'}, {}, 'has no methods'),
    (
      {'edit.jump': 9},
      {'image': 'digit', 'mask': 'mask'},
      'config.edit: jump is 9: it must be at least 1 and less than the 3 steps',
    ),
    ({'sampling.sampler': 'unipc'}, {}, 'which sampling.sampler=unipc would u'),
    (
      {'edit.task': 'sdedit', 'sampling.sampler': 'unipc'},
      {'image': 'digit', 'mask': 'mask'},
      'config.edit.mask changes x between steps, which sampling.sampler=unipc',
    ),
    (
      {'edit.task': 'superres', 'edit.factor': 3},
      {'image': 'small'},
      'config.edit: factor=3 does not divide 8x8',
    ),
    ({'edit.task': 'colorize'}, {'image': 'digit'}, 'this run have no colours'),
    ({'edit.task': 'interpolate', 'edit.num_samples': 1}, {}, 'its two ends'),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line(plain, files, changes, fields, message):
  with pytest.raises(UserError, match=message) as error:
    run(plain, files, changes, **fields)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'edit.task': 'sdedit'}, 'was trained with conditioning.image=colorize'),
    (
      {'edit.task': 'colorize', 'edit.method': 'reconstruction'},
      "has 'colorize'",
    ),
    ({'edit.task': 'colorize', 'edit.label': 1}, 'takes no labels'),
  ],
)
def test_a_network_has_the_task_of_its_condition(
  colour, files, changes, message
):
  with pytest.raises(UserError, match=message):
    run(colour, files, changes, image='colours')


def test_the_label_is_that_of_all_samples():
  config = smoke(**QUICK | {'edit.label': 3})
  np.testing.assert_array_equal(edit.choose_label(config), [3, 3])


def test_a_network_trained_without_dropout_needs_a_label():
  config = smoke(**{'conditioning.dropout': 0.0})
  with pytest.raises(UserError, match='needs a class, .* 0..9'):
    edit.choose_label(config)


def test_labels_of_samples_are_those_of_the_images():
  config = smoke(**QUICK | INPAINTING | {'sampling.labels': (3,)})
  with pytest.raises(UserError, match='samples of this run continue test imag'):
    sample_inputs.choose_images(config, 2)
