"""Diffusion in latents: as in pixels where it must be, and self-contained."""

import itertools
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import other_runs
from diffusion_jax.app.kinds.latent import model as latent
from diffusion_jax.app.kinds.model import Latents, make_encode, make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import small_sets
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import to_global
from diffusion_jax.training.objectives import Context
from tests.app.conftest import (
  DIGITS,
  SMALL,
  arrays_of,
  assert_same,
  interrupted,
  lines_of,
  normal_params,
  params_of,
  printed_by,
  refused,
  trial,
)
from tests.app.fields import within
from tests.app.run.test_notebook import by_parts
from tests.rows import slow
from tests.transcribed import transcribes

QUIET = within('optimizer', decay='constant')
QUIET |= within('training', checkpoints__every=2)
QUIET |= within('sampling', sampler__eta=0, num_samples=4, batch_size=4)


def config_of(run, **changes):
  """Returns digits_latent:smoke in the latents of a run; None: in pixels."""
  latents = {'latent': None} if run is None else {'latent.run': run}
  return trial('digits_latent', small=True, **latents | QUIET | changes)


def model_of(workdir, **changes) -> Any:
  return make_model(config_of(source_of(workdir), **changes), RunFolder.at(workdir))


@pytest.fixture(scope='module')
def trained(autoencoder, tmp_path_factory):
  """Trains four steps in its latents; returns (workdir, printed text).

  It evaluates too. The run of the autoencoder is deleted afterwards.
  """
  folder = tmp_path_factory.mktemp('runs')
  source = folder / 'autoencoder'
  shutil.copytree(autoencoder, source)
  workdir = folder / 'latent'
  config = config_of(source, **{'training.held_out.every': 4})
  printed = printed_by(MODES['train'], config, workdir)
  assert len(lines_of(workdir, 'test_loss')) == 1
  shutil.rmtree(source)
  return workdir, printed


@pytest.fixture(scope='module')
def run(trained):
  return trained[0]


def source_of(workdir):
  return json.loads((workdir / 'config.json').read_text())['latent']['run']


HALF = Latents(
  lambda autoencoder, x, keys=None: autoencoder['scale'] * x / 2.0,
  lambda autoencoder, z: 2.0 * z / autoencoder['scale'],
)
LINEAR = {'conditioning.labels': False, 'conditioning.dropout': 0.0}


@pytest.fixture
def linear(autoencoder, tmp_path, monkeypatch):
  """Makes a folder with the latents z = scale * x / 2, scale = 2: z = x."""
  monkeypatch.setattr(latent, 'latents_of', lambda stored: HALF)
  config = config_of(autoencoder, **LINEAR, **{'latent.shape': (8, 8, 1)})
  model = make_model(config, RunFolder.at(tmp_path))
  model.autoencoder.prepare(datasets.source_of(config), make_mesh(config))
  path = tmp_path / 'latent.json'
  record = json.loads(path.read_text())
  write_summed(path, record | {'scale': 2.0})
  return config, tmp_path, record


def test_latents_that_are_pixels_are_diffused_as_pixels(linear, key):
  """Losses, test losses and gradients agree."""
  config, workdir, _ = linear
  latents: Any = make_model(config, RunFolder.at(workdir))
  pixels: Any = make_model(config_of(None, **LINEAR), RunFolder.at(workdir))
  mesh = make_mesh(config)
  batch = {'x': DIGITS.x.encode(small_sets.digits('test').x[:8])}
  kept = latents.autoencoder.load()
  z = make_encode(latents, mesh)(kept, to_global(mesh, batch), key, 0)

  @jax.jit
  def losses(params, batches):
    return [
      jax.value_and_grad(model.objective(test=test), has_aux=True)(params, Context(), key, batch)
      for test in (False, True)
      for model, batch in zip((latents, pixels), batches, strict=True)
    ]

  ours, theirs, *tests = losses(normal_params(pixels), (z, batch))
  for a, b in ((ours, theirs), tests):
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-4), a, b)
  assert ours[0][0] > 0.0


@transcribes(
  'Latent diffusion (Rombach et al. 2022)',
  'appendix: latents rescaled to unit deviation',
  '`app.kinds.latent.inverse_std`',
)
def test_the_measured_scale_is_one_over_the_deviation(linear):
  *_, record = linear
  x = DIGITS.x.encode(small_sets.digits('train').x).astype(np.float64)
  assert record['images'] == len(x)
  assert_allclose(record['scale'], 1.0 / (x / 2.0).std(), rtol=1e-6)


def test_the_scale_of_numbers_far_from_zero_keeps_its_digits():
  parts = [1e8 + np.arange(3.0), np.array([1e8 + 7.0])]
  scale, rows = latent.inverse_std(parts)
  assert rows == 4 and scale == pytest.approx(1.0 / np.concatenate(parts).std(), rel=1e-9)


def test_the_scale_is_that_of_draws_over_the_training_set(run):
  """Scaled draws with other keys have deviation 1."""
  model = model_of(run)
  kept, latents = model.autoencoder.load()['autoencoder'], model.latents
  x = DIGITS.x.encode(small_sets.digits('train').x)
  keys = jax.random.split(jax.random.key(5), len(x))

  @jax.jit
  def numbers(kept):
    other = kept | {'scale': 3.0 * kept['scale']}
    z, tripled = (latents.encode(one, x[:2]) for one in (kept, other))
    decoded = latents.decode(kept, z), latents.decode(other, 3.0 * z)
    return latents.encode(kept, x, keys), z, tripled, *decoded

  drawn, z, tripled, decoded, of_tripled = numbers(kept)
  assert drawn.shape == (len(x), 4, 4, 4)
  assert_allclose(np.std(drawn), 1.0, atol=0.02)
  # latents are multiplied by any scale, and the decoder divides by it
  assert_allclose(tripled, 3.0 * z, rtol=1e-5)
  assert_allclose(of_tripled, decoded, atol=1e-5)


def test_a_run_continues_exactly_without_its_autoencoder(trained, tmp_path, capsys):
  """The result is equal bit for bit; the scale is not measured again."""
  whole, printed = trained
  assert 'scale' in printed
  parts = interrupted(whole, tmp_path / 'parts')
  before = (parts / 'latent.json').read_bytes()
  MODES['train'](config_of(source_of(whole)), parts)
  assert 'scale' not in capsys.readouterr().out
  assert (parts / 'latent.json').read_bytes() == before
  assert_same(params_of(parts), params_of(whole))
  losses = lines_of(whole, 'loss')
  assert len(losses) == 4 and lines_of(parts, 'loss') == losses


def test_a_notebook_draws_by_latents(run):
  opened = dj.open_run(run, allow=[SMALL])
  given = {'label': np.arange(4)}
  drawn = opened.draw(4, **given)
  assert np.abs(by_parts(opened, 4, **given) - 1.0 * drawn).max() <= 16
  assert opened.encode(drawn).shape == (4, *opened.shape)
  assert opened.denoiser(**given) is not None


def test_samples_need_only_the_run_folder(run, tmp_path):
  """Samples, each frame of a trajectory and guided samples are decoded."""
  copy = shutil.copytree(run, tmp_path / 'moved')
  changes = within('sampling', trajectory=True, name='guided')
  # autoguidance by the run itself: no difference of the two, no guidance
  changes |= within('sampling.guidance', 'autoguidance', run=run, scale=3.0)
  MODES['sample'](config_of('', **changes), copy)
  guided = arrays_of(copy, 'guided')['arr_0']
  assert guided.shape == (4, 8, 8, 1) and guided.dtype == np.uint8
  with Image.open(copy / 'samples' / 'guided.gif') as frames:
    assert frames.n_frames > 2  # pyright: ignore[reportAttributeAccessIssue]
  MODES['sample'](config_of(''), copy)
  assert_array_equal(arrays_of(copy)['arr_0'], guided)


def test_the_bound_of_a_run_is_measured(run, capsys, monkeypatch):
  """The command computes it, and refuses the ELBO of pixels."""
  # The ODE has tests of its own.
  log_p = lambda keys, denoise, schedule, z, **_: [denoise(z, schedule(0.5)).x0.sum((1, 2, 3))]
  monkeypatch.setattr(dj, 'log_likelihood', log_p)
  few = {'evaluation.num_images': 4, 'evaluation.batch_size': 4}
  ode = {'evaluation.metrics': 'ode', 'evaluation.ode.tolerance': 0.1}
  MODES['evaluate'](config_of('', **few, **ode), run)
  assert 'bits/dim' in capsys.readouterr().out
  path = next(run.glob('evaluation/ode-test-*/result.json'))
  assert 0.0 < json.loads(path.read_text())['metrics']['ode']['value'] < 100.0
  refused('elbo', MODES['evaluate'], config_of('', **few, **{'evaluation.metrics': 'elbo'}), run)


@pytest.fixture
def files(tmp_path):
  digits = DIGITS.x.decode(DIGITS.x.encode(small_sets.digits('test').x[:2]))[..., 0]
  known = np.full((8, 8), 255, np.uint8)
  known[:, 5:] = 0  # column 4 is known, but not its latents
  for name, x in {'image': digits[0], 'image2': digits[1], 'mask': known}.items():
    Image.fromarray(x).save(tmp_path / f'{name}.png')
  return tmp_path


NUMBERS = itertools.count()


def edited(run, files, edit, **changes):
  takes = {'inpaint': 'image mask', 'sdedit': 'image', 'interpolate': 'image image2'}
  fields = {f'edit.{name}': str(files / f'{name}.png') for name in takes[edit].split()}
  name = f'edit{next(NUMBERS)}'
  fields |= {'edit': edit, 'edit.num_samples': 2, 'edit.output': name}
  MODES['edit'](config_of('', **fields | changes), run)
  return arrays_of(run, name, 'edits')['arr_0'][..., 0]


@pytest.mark.parametrize(
  'method', [{'edit.method.jump': 1}, slow({'edit.method': 'reconstruction'})]
)
def test_known_pixels_stay_to_the_bit(run, files, method, capsys):
  results = edited(run, files, 'inpaint', **method)
  assert 'in latents 50% are known' in capsys.readouterr().out
  given = np.asarray(Image.open(files / 'image.png'))
  kept = given[None, :, :5].repeat(2, 0)
  assert_array_equal(results[:, :, :5], kept)
  assert (results[0, :, 5:] != results[1, :, 5:]).any()


def test_edits_of_no_strength_are_what_the_autoencoder_makes_of_it(run, files):
  """SDEdit from step 0 and both ends of an interpolation encode and decode the picture."""
  model = model_of(run)
  kept, latents = model.autoencoder.load()['autoencoder'], model.latents
  x = DIGITS.x.encode(small_sets.digits('test').x[:2])
  round_trip = lambda kept, x: latents.decode(kept, latents.encode(kept, x))
  expected = DIGITS.x.decode(jax.jit(round_trip)(kept, x))[..., 0]
  results = edited(run, files, 'sdedit', **{'edit.strength': 0.0})
  assert_array_equal(results[0], expected[0])
  results = edited(run, files, 'interpolate', **{'sampling.num_steps': 200})
  for end in (0, 1):
    assert np.abs(results[end].astype(float) - expected[end]).mean() < 4.0


def test_latents_of_another_shape_are_refused(autoencoder, tmp_path):
  config = config_of(autoencoder, **{'latent.shape': (4, 4, 2)})
  refused('shape=.* have the shape .4, 4, 4.', MODES['train'], config, tmp_path)
  assert not (tmp_path / 'latent.json').exists()


def test_a_changed_autoencoder_is_noticed(run, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'copy')
  path = copy / 'latent.json'
  record = json.loads(path.read_text())
  write_summed(path, record | {'checksum': 1})
  refused('have changed since this run began', MODES['sample'], config_of(''), copy)
  changes = within('sampling.guidance', 'autoguidance', run=copy, scale=2.0)
  refused('has the latents of another autoenc', other_runs.guides_of, model_of(run, **changes))
  path.unlink()
  refused('latent.json cannot be read', MODES['sample'], config_of(''), copy)


@pytest.mark.slow
def test_particles_restore_by_latents(run, tmp_path, capsys):
  """y measures decoded pixels; other methods need a model of pixels."""
  picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(picture).save(tmp_path / 'clean.png')
  fields = within('edit', 'restore', image=str(tmp_path / 'clean.png'), simulate=True)
  fields |= within('edit', noise=25.0, operator='downsample')
  fields |= within('edit', num_samples=2, output='restored')
  message = 'posterior=moment needs pixels, .* set i'
  refused(message, MODES['edit'], config_of('', **fields), run)
  fields |= {'edit.posterior': 'steered', 'edit.posterior.particles': 3}
  MODES['edit'](config_of('', **fields), run)
  arrays = arrays_of(run, 'restored', 'edits')
  assert arrays['arr_0'].shape == (2, 8, 8, 1)
  assert np.isfinite(arrays['log_evidence']).all()
  assert 'residual' in capsys.readouterr().out
