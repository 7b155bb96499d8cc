"""dj.open_run: the parts of trained runs, against what --mode=sample draws."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.config import overrides, trust
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.modes import MODES
from diffusion_jax.core.keys import fold_each
from diffusion_jax.runtime.streams import stream
from tests.app.conftest import SMALL, arrays_of, of_run, refused, trial, untrained
from tests.app.fields import typed, within
from tests.app.small_network import SmallAutoencoder

NINE = {'num_samples': 9, 'batch_size': 4, 'name': 'nine'}


def sampled(workdir, **fields):
  """Returns what --mode=sample writes: nine samples, in batches of four."""
  fields = within('sampling', **NINE | fields)
  MODES['sample'](of_run(workdir, **fields), workdir)
  return arrays_of(workdir, 'nine')['arr_0']


def by_parts(run, n=9, **given):
  """Draws the first samples of the seed by the parts of a run."""
  denoise, levels = run.denoiser(**given), run.levels

  @jax.jit
  def draw():
    keys = jax.vmap(jax.random.split)(fold_each(stream(0, 'sampling'), np.arange(n)))
    noise = run._plan.prior_sample(keys[:, 0], levels.take(0))
    return dj.sample(keys[:, 1], denoise, run.sampler, levels, noise)

  return run.decode(draw())


def test_a_trained_run_by_its_parts(run):
  """dj.sample by the parts equals --mode=sample, and so does `draw`."""
  opened = dj.open_run(run, allow=[SMALL], batch_size=4)
  expected = sampled(run)
  labels = np.arange(9) % 10
  assert_array_equal(opened.draw(9), expected)
  assert_array_equal(opened.draw(9, label=range(10)), expected)
  assert_array_equal(opened.draw(4, first=5), expected[5:])
  assert np.abs(by_parts(opened, label=labels) - 1.0 * expected).max() <= 16

  denoise, level = opened.denoiser(label=labels), opened.schedule(0.5)
  x0 = jax.jit(denoise)(opened.encode(expected), level).x0
  assert x0.shape == (9, *opened.shape) and np.abs(x0).max() <= 1.0
  # 17 levels of pixels, in files 0..255
  again = opened.decode(opened.encode(expected))
  assert_array_equal(again, expected)
  assert opened.facts.num_classes == 10

  refused('network takes label, and nothing is given', opened.denoiser)
  refused('network takes label, and context is given', opened.draw, 2, context=[1.0])
  refused('seed is an argument of dj.open_run', opened.draw, 2, seed=3)
  for label in (-1, 0.7, True, 10, [3, 12], None, [None], [], {}, 'x', b'3', np.nan, np.eye(10)):
    refused('^label|takes label, and nothing', opened.draw, 2, label=label)
  for label in (3, '3', np.int64(3), np.float32(3.0), [3], np.array([3]), jax.numpy.int32(3)):
    assert_array_equal(opened.draw(4, first=3, label=label)[0], expected[3])
  for n in (0, -1, 2.5, None, True, '3', [2]):
    refused(r'^n must be an integer', opened.draw, n, label=1)
    if n != 0:
      refused(r'^first must be an integer', opened.draw, 1, n)
  for x in (expected / 255.0, expected - 1.0 * expected.max() - 1.0, expected * np.nan):
    refused(r'^x must be integers in 0\.\.255', opened.encode, x)
  refused(r'^x has the shape \[9, 8, 8\], and \[8, 8, 1\] or', opened.encode, expected[..., 0])
  refused(r'^z has the shape \[64\]', opened.decode, np.zeros(64))
  refused('are nan', opened.decode, np.full((8, 8, 1), np.nan))


def test_errors_name_arguments_of_python(run, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(trust, '_allowed', set())
  refused(rf"pass allow=\['{SMALL}'\]$", dj.open_run, run)
  refused('^num_steps=0 is not', dj.open_run, run, [SMALL], num_steps=0)
  trust._allowed.clear()
  refused('give the folder of another', dj.open_run, run / 'none')
  fields = dj.open_run(
    run,
    SMALL.partition(':')[0],
    guidance={'name': 'classifier_free', 'scale': 2.0},
    labels=np.array([4, 2]),
  ).model.config.sampling
  assert (fields.guidance.scale, fields.labels) == (2.0, ('4', '2'))
  trust._allowed.clear()  # another start of the program: what was allowed is kept
  dj.open_run(run)
  assert overrides.as_text(['a, b', 1]) == '"a, b",1'


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Makes a run of vectors with a context, in odd units."""
  folder = tmp_path_factory.mktemp('table')
  rng = np.random.default_rng(0)
  x = [1e3, -2.0] + [1e-3, 50.0] * rng.uniform(-1.5, 1.5, (40, 2))
  np.savez(folder / 'data.npz', x=x, context=rng.normal(5.0, 2.0, (40, 3)))
  fields = {'data': 'npz', 'data.path': str(folder / 'data.npz')}
  fields |= typed('sampling.checkpoint=latest sampling.sampler=ddim')
  fields |= {'training.checkpoints.best': None}
  return untrained(trial('two_moons', **fields), folder / 'run', deviation=0.1)


def test_vectors_are_given_a_context_in_its_units(table, tmp_path):
  rows = np.array([[5.0, 4.0, 7.0], [3.0, 5.0, 6.0], [5.0, 5.0, 5.0]])
  np.save(tmp_path / 'y.npy', rows)
  expected = sampled(table, num_samples=3, context=str(tmp_path / 'y.npy'))
  run, path = dj.open_run(table, batch_size=4), str(tmp_path / 'y.npy')
  assert_array_equal(run.draw(9, context=rows.repeat(3, axis=0)), expected)
  of_file = dj.open_run(table, num_samples=3, batch_size=4, context=path)
  assert_array_equal(of_file.draw(9), expected)
  of_data = np.load(table.parent / 'data.npz')['context']
  (encoded,) = conditions.given(run.model, None, {'context': rows}).cond.values()
  assert_allclose(encoded, (rows - of_data.mean(0)) / of_data.std(0), 1e-5)
  assert run.decode(run.encode(expected)).dtype == np.float64
  assert_allclose(run.decode(run.encode(expected)), expected, 1e-7)
  message = r'has the shape \[2\], and \[3\] or \[K, 3\] is needed'
  refused(message, run.draw, 2, context=[1.0, 2.0])


MASKED = pytest.param('digits_masked', marks=pytest.mark.slow)


@pytest.mark.parametrize('config', [MASKED, 'digits_meanflow', 'digits_vae'])
def test_each_kind_has_the_parts_that_it_can(config, tmp_path):
  """States, flow maps and VAEs; test_latent.py has latents."""
  is_vae = config == 'digits_vae'
  network = {'network': f'{SmallAutoencoder.__module__}:SmallAutoencoder'} if is_vae else {}
  workdir = untrained(trial(config, small=not is_vae, **network), tmp_path / 'run')
  run = dj.open_run(workdir, allow=[SMALL], checkpoint='latest')
  drawn = run.draw(3)
  assert drawn.shape == (3, 8, 8, 1) and drawn.dtype == np.uint8
  if is_vae:
    refused('holds a VAE, which has no denoiser', run.denoiser)
    return
  given = {'label': np.arange(3)} if run.model.conditioning.labels else {}
  assert np.abs(by_parts(run, 3, **given) - 1.0 * drawn).mean() < 1.0
