"""Restored pictures and arrays: each operator, files, and what is refused."""

import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from diffusion_jax.app.edit import mode as edit
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.choices import TABLES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests import refusals
from tests.app.conftest import arrays_of, printed_by, refused, smoke, untrained
from tests.app.edit.conftest import QUICK, edited
from tests.app.fields import typed, within
from tests.app.run.conftest import command


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clean')
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    picture = rng.integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(picture).save(folder / f'{name}.png')
  mask = np.repeat([255, 0], 32).astype(np.uint8).reshape(8, 8)
  (folder / 'mask').mkdir()
  Image.fromarray(mask).save(folder / 'mask' / 'mask.png')
  np.save(folder / 'mask' / 'matrix.npy', rng.normal(size=(5, 64)))
  return folder


@pytest.fixture(scope='module')
def colour(tmp_path_factory):
  fields = typed('data=synthetic data.image_shape=8,8,3')
  config = smoke(**fields, **typed('conditioning.labels=False conditioning.dropout=0.0'))
  return untrained(config, tmp_path_factory.mktemp('runs') / 'colour')


def config_of(**changes):
  return smoke(**QUICK | within('edit', 'restore', **changes))


def run(workdir, output, **changes):
  return edited(config_of(output=output, **changes), workdir)


def pictures_of(config, workdir):
  """Returns what an edit reads, without a draw."""
  model = make_model(config, RunFolder.at(workdir))
  model.check('edit')
  return edit.inputs_of(model).pictures


def test_results_have_the_names_of_the_files_that_were_read(plain, clean, tmp_path, monkeypatch):
  """A picture that comes into the folder during the drawing shifts no name."""
  folder = shutil.copytree(clean, tmp_path / 'in')
  picture = np.full((8, 8), 128, np.uint8)

  def write_parts(*args, write=edit.write_parts, **more):
    paths = write(*args, **more)
    Image.fromarray(picture).save(folder / 'a0.png')
    (folder / 'b.png').unlink()
    return paths

  monkeypatch.setattr(edit, 'write_parts', write_parts)
  draws = {'x': np.zeros((2, 8, 8, 1)), 'residual': np.ones(2)}
  monkeypatch.setattr(edit, 'drawing', lambda run, inputs: lambda index: lambda: draws)
  arrays = run(plain, 'mine', image=str(folder), operator='blur', num_samples=1)
  written = sorted(x.name for x in (plain / 'edits').glob('mine_*_0.png'))
  assert written == ['mine_a_0.png', 'mine_b_0.png']
  assert list(arrays['names']) == ['a.png', 'b.png']


TWO = typed("""
  simulate=True noise=12.75 operator=downsample posterior=steered posterior.particles=4
""")


@pytest.fixture(scope='module')
def two(plain, clean):
  """Damages and restores both pictures; returns (arrays, printed text)."""
  out = printed_by(lambda: run(plain, 'two', image=str(clean), **TWO))
  return arrays_of(plain, 'two', 'edits'), out


def test_pictures_are_damaged_and_restored(plain, two):
  """Two pictures, two samples each."""
  found, out = two
  assert found['arr_0'].shape == (4, 8, 8, 1)
  assert found['y'].shape == (2, 4, 4, 1)
  blocks = found['clean'].reshape(2, 4, 2, 4, 2, 1) / 127.5 - 1.0
  noise = found['y'] - blocks.mean(axis=(2, 4))
  assert 0.05 < noise.std() < 0.15
  assert found['log_evidence'].shape == found['lowest_ess'].shape == (4,)
  assert 'noise: 12.75 grey levels of 255, 0.1 in [-1, 1]' in out
  assert 'a.png: residual' in out and 'b.png: residual' in out and 'mean of 2 pictures' in out
  assert 'psnr_of_mean' in out and 'between' in out and 'log_evidence' in out
  written = {x.name for x in (plain / 'edits').glob('two*')}
  files = {f'two_{name}_{part}.png' for name in 'ab' for part in ('0', '1', 'mean', 'std')}
  assert written == files | {'two.npz', 'two.png'}
  for name in 'ab':
    samples = [np.asarray(Image.open(plain / 'edits' / f'two_{name}_{i}.png')) for i in range(2)]
    mean = np.asarray(Image.open(plain / 'edits' / f'two_{name}_mean.png'))
    # samples have 17 grey levels, and their mean 255
    assert_allclose(mean, np.mean(samples, axis=0), atol=9)


OPERATORS = ('blur', 'mask', 'hdr', 'downsample', 'motion', 'gray', 'phase', 'matrix')
assert {*OPERATORS} == {*TABLES['edit.operator']}


@pytest.mark.parametrize(
  'method, operator',
  [
    pytest.param(*pair, marks=[] if pair[1] == 'gray' else pytest.mark.slow)
    for pair in zip(TABLES['edit.posterior'], OPERATORS, strict=True)
  ],
)
def test_each_method_and_operator_as_typed(method, operator, plain, colour, clean):
  workdir, shape = plain, (2, 8, 8, 1)
  if operator == 'gray':
    workdir, shape = colour, (2, 8, 8, 3)
  fields = {'image': clean / 'a.png', 'simulate': True, 'output': method}
  fields |= {'num_samples': 2, 'operator': operator, 'posterior': method}
  if operator == 'mask':
    fields['operator.mask'] = clean / 'mask/mask.png'
  if operator == 'matrix':
    fields['operator.path'] = clean / 'mask/matrix.npy'
  flags = [f'--config.edit.{name}={value}' for name, value in fields.items()]
  steps = ['edit.posterior.rounds=2', 'edit.posterior.inner_steps=2']
  steps = steps if method == 'gibbs' else ['sampling.num_steps=3']
  flags += [f'--config.{step}' for step in (*steps, 'training.machine.mesh=1,1')]
  flags += [f'--config={workdir}', '--mode=edit', '--config.edit=restore']
  assert not command(*flags)
  x = arrays_of(workdir, method, 'edits')['arr_0']
  assert x.shape == shape and x.std() > 0


def test_samples_that_leave_are_counted(plain, clean, capsys, monkeypatch):
  """The mean and the figures leave out a sample that is NaN and one that is far from y."""
  x = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 8, 8, 1))
  x[1], x[2] = np.nan, 1e3
  drawn = {'x': x, 'residual': np.array([1.0, np.nan, 1e4, 1.1, 0.9])}
  draw = lambda index: lambda: {n: a[index] for n, a in drawn.items()}
  monkeypatch.setattr(edit, 'drawing', lambda run, inputs: draw)
  given = {'image': str(clean / 'a.png'), 'simulate': True, 'operator': 'blur'}
  given |= {'posterior': 'pseudoinverse', 'num_samples': 5}
  found = run(plain, 'lost', **given)
  out = capsys.readouterr().out
  assert 'a.png: 2 of 5 samples are left out (1, 2): not finite' in out
  assert 'Try more sampling.num_steps, or another edit.posterior' in out
  assert 'residual 1, spread' in out and 'nan' not in out
  mean = np.asarray(Image.open(plain / 'edits' / 'lost_a_mean.png'), float)
  expected = found['arr_0'][[0, 3, 4], ..., 0].mean(axis=0)
  assert_allclose(mean, expected, atol=9)  # of 17 grey levels

  drawn['x'] = np.full_like(x, np.nan)
  refused('the samples are nan', run, plain, 'none', **given)


def test_the_mean_says_of_how_many_pictures_it_is(plain, clean, capsys, monkeypatch):
  """The second picture, whose samples are all NaN, is not in the mean."""
  x = np.random.default_rng(0).uniform(-1.0, 1.0, (4, 8, 8, 1))
  drawn = {'x': x, 'residual': np.array([1.0, 1.0, np.nan, np.nan])}
  x[2:] = np.nan
  monkeypatch.setattr(
    edit,
    'drawing',
    lambda run, inputs: lambda index: lambda: {n: a[index] for n, a in drawn.items()},
  )
  run(
    plain,
    'half',
    image=str(clean),
    simulate=True,
    operator='blur',
    posterior='pseudoinverse',
    num_samples=2,
  )
  assert 'mean of 1 of 2 pictures: residual 1, ' in capsys.readouterr().out


def test_the_figures_are_those_of_the_stored_samples(plain, clean, capsys, monkeypatch):
  """Samples have 17 grey levels, and what is drawn is nearer to the clean picture."""
  picture = np.asarray(Image.open(clean / 'a.png'))[..., None] / 127.5 - 1.0
  x = picture + 0.01 * np.random.default_rng(0).normal(size=(3, 8, 8, 1))
  drawn = {'x': x, 'residual': np.ones(3)}
  draw = lambda index: lambda: {n: a[index] for n, a in drawn.items()}
  monkeypatch.setattr(edit, 'drawing', lambda run, inputs: draw)
  found = run(
    plain,
    'figures',
    image=str(clean / 'a.png'),
    simulate=True,
    operator='blur',
    posterior='pseudoinverse',
    num_samples=3,
  )
  x, out = found['arr_0'] / 127.5, capsys.readouterr().out
  error = np.sqrt(np.square(x - found['clean'] / 127.5).mean(axis=(1, 2, 3)))
  between = (x.min(axis=0) <= found['clean'] / 127.5) & (found['clean'] / 127.5 <= x.max(axis=0))
  assert f'psnr {20 * np.log10(2.0 / error).mean():.3g}, between {100 * between.mean():.3g}' in out


def test_what_is_hidden_by_a_mask_does_not_matter(plain, clean, tmp_path, capsys):
  """Guidance once followed hidden pixels, and the residual included them."""
  picture = np.array(Image.open(clean / 'a.png'))
  hidden = np.asarray(Image.open(clean / 'mask/mask.png')) == 0
  picture[hidden] = 255
  Image.fromarray(picture).save(tmp_path / 'a.png')
  given = {'operator': 'mask', 'operator.mask': str(clean / 'mask/mask.png'), 'noise': 127.5}
  config = config_of(image=str(clean / 'a.png'), **given)
  read = pictures_of(config, plain)
  found = run(plain, 'hidden', image=str(tmp_path / 'a.png'), **given)
  # y is all that a draw sees of a picture.
  assert {*read} == {'names', 'y'}
  assert_array_equal(read['y'], found['y'])
  assert (found['y'][0, hidden] == 0.0).all()
  assert 'psnr' not in capsys.readouterr().out  # of a damaged picture
  x = found['arr_0'][..., 0] / 127.5 - 1.0
  error = (x - found['y'][..., 0])[:, ~hidden]
  residual = np.sqrt(np.mean(error**2, axis=1))  # noise is 1
  # of samples rounded to 17 grey levels
  assert_allclose(found['residual'], residual, rtol=0.02)


def test_a_picture_that_the_operator_cannot_make(plain, clean, capsys):
  given = {'image': str(clean), 'operator': 'blur', 'posterior': 'proximal'}
  pictures_of(config_of(**given), plain)
  part = '2 of 2 pictures are not what this operator makes of any picture: '
  assert part in capsys.readouterr().out
  pictures_of(config_of(simulate=True, **given), plain)
  assert 'are not what' not in capsys.readouterr().out


ODD = np.array([1e3, -5.0, 2e-4]), np.array([1e-3, 4.0, 1e-5])


@pytest.fixture(scope='module')
def numbers(tmp_path_factory):
  """A run of vectors in odd units, a clean one, and operators.

  Its v is 0, which is right for standardised x ~ N(0, 1).
  """
  folder = tmp_path_factory.mktemp('numbers')
  rng, (mean, std) = np.random.default_rng(0), ODD
  np.savez(folder / 'x.npz', x=mean + std * rng.normal(size=(500, 3)))
  config = smoke(
    **typed('network=mlp network.num_blocks=1'),
    **typed(f'data=npz data.path={folder}/x.npz'),
    **typed('conditioning.labels=False conditioning.dropout=0.0'),
    parametrization='v',
  )
  untrained(config, folder / 'run', deviation=0)
  np.save(folder / 'clean.npy', mean + std * np.array([0.5, -1.0, 2.0]))
  np.save(folder / 'matrix.npy', np.diag(1 / std)[:2])
  np.save(folder / 'mask.npy', np.array([1, 0, 1]))
  return folder, config


def config_of_numbers(numbers, **changes):
  folder, config = numbers
  fields = {'image': 'clean.npy', 'posterior': 'pseudoinverse'} | changes
  flags = [('edit', 'restore'), ('sampling.num_steps', '40')]
  for name, value in fields.items():
    path = folder / str(value)
    flags.append((f'edit.{name}', str(path if path.suffix in ('.npy', '.png') else value)))
  return store.with_flags(config, flags)


def y_of(numbers, **changes):
  config = config_of_numbers(numbers, **changes)
  return pictures_of(config, numbers[0] / 'run')['y']


MATRIX_FILE = {'operator': 'matrix', 'operator.path': 'matrix.npy'}


def test_numbers_are_measured_in_their_own_units(numbers, capsys):
  """Draws have the closed-form posterior; float32 keeps only 7 digits of x.

  Each number of y has its own noise.
  """
  config = config_of_numbers(
    numbers, output='units', simulate=True, noise='0.5,1.0', num_samples=200, **MATRIX_FILE
  )
  made = edited(config, numbers[0] / 'run')
  x, std = np.load(numbers[0] / 'clean.npy'), ODD[1]
  assert_allclose(made['clean'][0], x, rtol=1e-12)
  with np.load(numbers[0] / 'x.npz') as data:
    z = (x - data['x'].mean(axis=0)) / std
  y = made['y'][0]
  assert 0 < np.abs(y - z[:2]).max() < 3.0  # noise
  drawn = (made['arr_0'] - x) / std + z
  mean = np.append(y / [1.25, 2.0], 0.0)  # of N(0, 1) given y
  deviation = np.sqrt([0.2, 0.5, 1.0])
  assert np.abs((drawn.mean(axis=0) - mean) / deviation).max() < 0.4
  assert_allclose(drawn.std(axis=0), deviation, rtol=0.25)
  out = capsys.readouterr().out
  assert 'grey levels' not in out and 'psnr' not in out
  assert (numbers[0] / 'run' / 'edits' / 'units_clean.png').exists()


def test_a_file_of_y_is_what_simulate_makes(numbers):
  """A measurement from a file and a simulated one have the user's units and one operator."""
  folder, _ = numbers
  x, rows = np.load(folder / 'clean.npy'), np.load(folder / 'matrix.npy')
  np.save(folder / 'y.npy', rows @ x)
  given = {'noise': 1e-9, **MATRIX_FILE}
  y = y_of(numbers, image='y.npy', **given)
  theirs = y_of(numbers, simulate=True, **given)
  assert_allclose(y, theirs, atol=2e-5)
  seen = {'operator': 'mask', 'operator.mask': 'mask.npy', 'noise': 1e-9}
  y = y_of(numbers, simulate=True, **seen)[0]
  with np.load(folder / 'x.npz') as data:
    expected = (x - data['x'].mean(axis=0)) * [1, 0, 1]
  assert_allclose(y, expected, rtol=1e-3, atol=1e-12)


OTHERS = [
  (({}, {'image': 'x.png'}), 'is not a .npy file, which data other than pict'),
  (({'clean': np.zeros(4)}, {}), 'shape (4,), (3,) is needed'),
  (({'matrix': np.zeros((2, 4))}, MATRIX_FILE), '[2, 4], and a matrix [M, 3] is needed for x'),
  (({'matrix': np.zeros(3)}, MATRIX_FILE), 'the shape [3], and a matrix'),
  (({'mask': np.zeros(3)}, {}), 'must have 0 and 1 in the shape [3], got'),
  (({'mask': np.full(3, 2)}, {}), 'must have 0 and 1'),
  (({'mask': np.ones(2)}, {}), 'got [2]'),
  (({}, {'noise': '1,2,3,4'}), 'noise has 4 values: give one, or one for each of the 3 ch'),
  (({'clean': np.full(3, np.nan)}, {'simulate': False}), 'clean.npy ... not finite'),
]


@pytest.mark.parametrize('error, given, message', [*refusals.rows(ValueError, OTHERS)])
def test_other_arrays_are_refused(numbers, tmp_path, error, given, message):
  folder, (arrays, changes) = shutil.copytree(numbers[0], tmp_path / 'numbers'), given
  for name, array in arrays.items():
    np.save(folder / f'{name}.npy', array)
  Image.fromarray(np.zeros((3, 1), np.uint8)).save(folder / 'x.png')
  mask = {'operator': 'mask', 'operator.mask': 'mask.npy'}
  fields = {'simulate': True} | ({} if 'operator' in changes else mask)
  with refusals.one_line(error=(UserError, error), match=message):
    y_of((folder, numbers[1]), **fields | changes)
