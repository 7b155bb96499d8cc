"""Pairs of a part of an example and the rest: forecasts in the program."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.evaluate import held_out_pairs
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.small_sets import eeg
from diffusion_jax.declared import declares
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.report import results
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, refused, trial, untrained
from tests.app.fields import typed

N = np.nan
RHO = np.exp(-0.25)
PLACE = np.arange(8)
COV = RHO ** np.abs(PLACE[:, None] - PLACE)
FEW = typed("""
  data.sides=8 data.mean=20.0 data.std=3.0 data.num_examples=2000 data.num_test=40
  sampling.num_steps=4 sampling.checkpoint=latest
""")
ASKED = typed('evaluation.num_pairs=12 evaluation.draws_per_pair=3')


@declares(element_levels=True)
class Exact(nn.Module):
  """Predicts the velocity of an AR(1) of 8 standardised numbers exactly."""

  inputs: Inputs = Inputs()

  @nn.compact
  def __call__(self, x, noise, cond, *, train=False):
    def one(x, t):  # of an example, [8, 1] and [8]
      noisy = jnp.outer(1.0 - t, 1.0 - t) * COV + jnp.diag(t**2 + 1e-8)
      x0 = COV @ ((1.0 - t)[:, None] * jnp.linalg.solve(noisy, x))
      return (x - x0) / jnp.maximum(t, 1e-6)[:, None]

    scale = 1.0 + self.param('scale', nn.initializers.zeros, ())
    return scale * jax.vmap(one)(x, noise / 1000.0)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of random parameters."""
  small = typed('network.channels=16 network.num_blocks=1 network.num_heads=2')
  small |= typed('sampling.sampler=ddim')
  return untrained(trial('rollout', **FEW, **small), tmp_path_factory.mktemp('pairs') / 'run', 0.05)


def model_of(run, flags=''):
  return make_model(of_run(run, **ASKED | typed(flags)), RunFolder.at(run))


def result_of(run, name):
  (path,) = (run / 'evaluation').glob(f'{name}-*/result.json')
  return json.loads(path.read_text())


def test_the_first_elements_are_given_and_the_law_is_that_of_the_others(run):
  held = held_out_pairs.read(model_of(run, 'evaluation.num_given=5'), with_law=True)
  assert held.rows.shape == (12, 8, 1)
  assert_array_equal(np.isnan(held.rows[..., 0]), np.tile(np.arange(8) >= 5, (12, 1)))
  truth, context = (held.reference[name] for name in ('truth', 'context'))
  assert_array_equal(held.rows[:, :5], context)
  assert truth.shape == (12, 3, 1)
  steps = np.arange(1, 4)
  mean = 20.0 + (context[:, -1] - 20.0) * RHO**steps
  assert_allclose(held.reference['law_mean'], mean, rtol=1e-9)
  variances = 9.0 * (1.0 - RHO ** (2 * steps))
  assert_allclose(np.diag(held.reference['law_cov']), variances, rtol=1e-9)
  draws = np.arange(12 * 3 * 8.0).reshape(36, 8, 1)
  assert_array_equal(held.drawn(draws), draws.reshape(12, 3, 8, 1)[:, :, 5:])


@pytest.mark.parametrize('flags, count', [('', 4), ('data.sides=6 objective.levels.size=2', 2)])
def test_a_half_is_given_by_default(flags, count, tmp_path):
  fields = FEW | typed(flags)
  config = trial('rollout', **fields)
  is_given = held_out_pairs.given_elements(make_model(config, RunFolder.at(tmp_path)))
  assert_array_equal(is_given, np.arange(len(is_given)) < count)


def test_parameters_are_drawn_given_what_is_observed(tmp_path):
  fields = FEW | typed('objective.levels=subsets objective.levels.parameters=3')
  is_given = held_out_pairs.given_elements(
    make_model(trial('rollout', **fields), RunFolder.at(tmp_path))
  )
  assert_array_equal(is_given, np.arange(8) >= 3)


def test_forecasts_of_the_exact_denoiser_have_the_exact_law(tmp_path):
  """`auto` compares with the closed form; wrong by a tenth, the variance would be 7 errors off."""
  fields = FEW | typed(f"""
    network={__name__}:Exact evaluation.num_pairs=40 evaluation.draws_per_pair=100
    sampling.num_steps=40 sampling.batch_size=500
  """)
  run = untrained(trial('rollout', **fields), tmp_path / 'run', 0.0)
  MODES['evaluate'](of_run(run), run)
  found = result_of(run, 'predictive')
  scores = {name: score['value'] for name, score in found['metrics'].items()}
  assert_allclose(scores['predictive_mean'], 0.1, atol=0.04)  # 100 draws
  assert_allclose(scores['predictive_variance'], 1.0, atol=0.05)
  assert_allclose(scores['predictive_variance_farthest'], 1.0, atol=0.08)
  assert scores['predictive_covariance'] < 0.1
  assert (found['pairs'], found['draws_per_pair'], found['given']) == (40, 100, '4 of 8')
  assert 'given 4 of 8' in results.examples_of(found)
  assert list((run / 'evaluation').glob('predictive-*/variance.png'))
  crps = result_of(run, 'crps')['metrics']
  steps = np.arange(1, 5)
  expected = np.mean(3.0 * np.sqrt((1.0 - RHO ** (2 * steps)) / np.pi))
  assert abs(crps['crps']['value'] - expected) < 4.0 * crps['crps']['error']
  assert abs(crps['crps_unconditional']['value'] - 3.0 / np.pi**0.5) < 0.5
  for name, score in result_of(run, 'order_gap')['metrics'].items():
    assert abs(score['value']) < 4.0 * score['error'] < 1.0, name


def test_other_elements_are_other_draws(run):
  for count in 3, 6:
    flags = f'evaluation.metrics=crps evaluation.num_given={count} evaluation.name=given{count}'
    MODES['evaluate'](of_run(run, **ASKED | typed(flags)), run)
  found = [json.loads(path.read_text()) for path in (run / 'evaluation').glob('crps-*/result.json')]
  assert len({json.dumps(x['metrics']) for x in found}) == len(found) >= 2
  assert {x['settings']['evaluation']['num_given'] for x in found} >= {3, 6}


WRONG = {
  'all': ('rollout', 'evaluation.num_given=8', 'num_given=8: an example has 8 elements'),
  'a part of those that share a level': (
    'rollout',
    'objective.levels.size=2 evaluation.num_given=3',
    'a multiple of objective.levels.size=2',
  ),
  'a sampler of one level': ('rollout', 'sampling.sampler=adaptive_ode', 'one level for all'),
  'no closed form': (
    'rollout',
    'data=eeg evaluation.metrics=predictive',
    'predictive needs data whose moments are known',
  ),
  'one draw': ('rollout', 'evaluation.draws_per_pair=1', 'draws_per_pair=1: crps needs 2 draws'),
  'few pairs': ('rollout', 'evaluation.num_pairs=9', 'needs 10 held-out pairs or more, and there'),
  'longer rows': (
    'rollout',
    'evaluation.metrics=moments sampling.context=long.npy',
    'long.npy has 9 elements, and examples, which samples are compared with, 8',
  ),
  'no levels of elements': ('rollout', 'objective.levels=None', 'crps needs draws for each'),
}


@pytest.mark.parametrize('name, flags, words', WRONG.values(), ids=WRONG)
def test_what_cannot_be_forecast_is_one_line(name, flags, words, tmp_path, monkeypatch):
  """Before anything is drawn."""
  monkeypatch.chdir(tmp_path)
  np.save('long.npy', [[[1.0]] * 2 + [[N]] * 7])
  fields = (FEW if 'eeg' not in flags else {}) | typed('evaluation.metrics=crps') | typed(flags)
  run = untrained(trial(name, **fields), tmp_path / 'run')
  text = refused('', lambda: MODES['evaluate'](of_run(run), run))
  assert words in text
  assert not list(run.glob('evaluation/drawn/*'))


def test_windows_of_the_electroencephalogram_share_no_point():
  train, test = (eeg(split, 16).read(np.arange(2))['x'] for split in ('train', 'test'))
  assert train.shape == (2, 16, 4)
  assert_array_equal(train[0, 1:], train[1, :-1])
  counts = [len(eeg(split, 16)) for split in ('train', 'test')]
  assert counts == [585, 185]
  last = eeg('train', 16).read(np.array([584]))['x'][0, -1]
  assert (np.abs(test - last).sum(axis=-1) > 0.0).all()
  with pytest.raises(ValueError, match='length=300 is above the 200 points of the test split'):
    eeg('test', 300)
