"""Any conditional of a vector by one network: the commands, and the truth."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks
from diffusion_jax.errors import UserError
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Context, denoising
from tests import refusals
from tests.app.conftest import arrays_of, of_run, trial, untrained
from tests.app.fields import typed
from tests.rows import slow
from tests.sampling.moments import jit_long

N = np.nan
ROWS = np.array([[N, N, 0.2, 0.1], [0.3, 1.0, N, N], [N, -0.4, 0.3, N], 4 * [N]])
FEW = typed("""
  data.num_examples=100 data.num_test=16 data.bounds=-1.0,1.0 training.held_out.every=4
  sampling.num_samples=5 sampling.batch_size=8 sampling.sampler=ddim
""")


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of random parameters."""
  config = trial('joint', **FEW, **{'sampling.checkpoint': 'latest'})
  return untrained(config, tmp_path_factory.mktemp('joint') / 'run', 0.05)


def draw(run, rows, name='given'):
  """Returns what --mode=sample writes for rows of sampling.context."""
  np.save(run / 'row.npy', rows)
  fields = typed(f'sampling.name={name} sampling.context={run}/row.npy')
  MODES['sample'](of_run(run, **fields), run)
  return arrays_of(run, name)


UNET = {'network': 'unet', 'network.attention_resolutions': ()}
TOKENS = typed("""
  network=dit network.channels=8 network.num_heads=2 network.num_blocks=1 network.patch_size=1
  network.positions=learned
""")


@pytest.mark.slow
def test_tokens_of_numbers_are_trained_and_drawn(tmp_path):
  MODES['train'](trial('joint', **FEW | TOKENS), tmp_path)
  x = draw(tmp_path, ROWS)['arr_0'].reshape(4, 5, 4)
  known = ~np.isnan(ROWS)
  assert_array_equal(x.swapaxes(0, 1)[:, known], [np.float32(ROWS[known])] * 5)
  assert np.isfinite(x).all()


def test_given_numbers_are_kept_and_others_drawn(run, capsys):
  found = draw(run, ROWS)
  x = found['arr_0'].reshape(4, 5, 4)
  for row, each in zip(ROWS, x, strict=True):
    known = ~np.isnan(row)
    kept = np.broadcast_to(np.float32(row[known]), (5, known.sum()))
    assert_array_equal(each[:, known], kept)
    assert (each[:, ~known].std(axis=0) > 1e-3).all()
  assert (np.abs(x[:, :, :2]) <= 1.0).all()  # the box of the parameters
  assert 'of the draws were outside data.bounds' in capsys.readouterr().out
  far = draw(run, [N, N, 99.0, 0.0], 'far')
  assert np.isfinite(far['arr_0']).all()
  assert 'note: number 2 of row 0 of the context is' in capsys.readouterr().out


def test_the_share_outside_is_of_all_draws_also_after_an_interruption(run, capsys, monkeypatch):
  def line():
    [text] = [x for x in capsys.readouterr().out.splitlines() if 'outside data.bounds' in x]
    return text

  draw(run, ROWS, 'whole')
  expected = line()
  with monkeypatch.context() as patch:
    patch.setattr(sample, 'write', mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      draw(run, ROWS, 'stopped')
  draw(run, ROWS, 'stopped')
  assert line() == expected


@pytest.mark.slow
def test_draws_of_a_training_are_within_the_box(tmp_path, monkeypatch):
  """Metrics and previews see what --mode=sample and evaluate write."""
  seen = []
  scorer, sheet = hooks.scorers.scorer, hooks.draw_sheet

  def recorded(*args):
    prepare, score = scorer(*args)
    return prepare, lambda a: seen.append(a['values']) or score(a)

  def drawn(model, samples, *args):
    seen.append(samples)
    return sheet(model, samples, *args)

  monkeypatch.setattr(hooks.scorers, 'scorer', recorded)
  monkeypatch.setattr(hooks, 'draw_sheet', drawn)
  monkeypatch.setattr(hooks, 'FEW', 100)
  fields = typed("""
    training.metrics.every=4 training.metrics.images=20 training.sample_every=4
    evaluation.metrics=moments
  """)
  MODES['train'](trial('joint', **FEW | fields), tmp_path)
  assert len(seen) >= 2
  for samples in seen:
    assert (np.abs(samples[:, :2]) <= 1.0).all()


@pytest.mark.parametrize('posterior', ['moment', 'gibbs', slow('steered')])
def test_a_restored_vector_keeps_what_is_known(posterior, run):
  """By the run's steps and by steps of the method's own."""
  np.save(run / 'y.npy', [0.3, N, N, N])
  np.save(run / 'seen.npy', [1, 0, 0, 0])
  np.save(run / 'row.npy', [N, N, 0.2, N])
  fields = typed(f'edit=restore edit.image={run}/y.npy edit.noise=0.1')
  fields |= typed(f'edit.num_samples=2 edit.output={posterior} edit.posterior={posterior}')
  fields |= (
    typed('edit.posterior.rounds=3 edit.posterior.inner_steps=3') if posterior == 'gibbs' else {}
  )
  fields |= typed(f"""
    edit.operator=mask edit.operator.mask={run}/seen.npy sampling.context={run}/row.npy
  """)
  MODES['edit'](of_run(run, **fields), run)
  x = arrays_of(run, posterior, 'edits')['arr_0']
  assert_allclose(x[:, 2], 0.2, atol=1e-5)


ROWS_REFUSED = [
  ([N, 0.1, 0.2], 'row.npy has the shape [3], and [4] or [K, 4]'),
  ([[N] * 4, [0.1] * 4], 'row 1 of ... row.npy gives all numbers of x: NaN'),
  ([N, N, np.inf, 0.1], 'has numbers that are not finite'),
  ([1.5, N, N, N], 'row 0 of ... row.npy has a number outside data.bounds'),
]


@pytest.mark.parametrize('error, row, message', [*refusals.rows(UserError, ROWS_REFUSED)])
def test_another_row_is_refused(run, error, row, message):
  with refusals.one_line(error=error, match=message):
    draw(run, row)


REFUSED = [
  (('joint', {'conditioning.context': 'vector'}), 'is in x: set context=None, and data.joint'),
  (('joint', {'objective.levels.parameters': 4}), 'parameters=4 must be less than the 4 elements'),
  (('joint', {'conditioning.dropout': 0.1}), 'dropout=0.1 has no effect'),
  (('joint', {'sampling.order': 'blocks'}), 'one level for all that is noisy: train it with'),
  (('joint', UNET), 'with a level for each element, which unet ... to dit or mlp'),
]


@pytest.mark.parametrize('error, config, message', [*refusals.rows(UserError, REFUSED)])
def test_what_does_not_fit_is_refused(error, config, message, tmp_path):
  name, fields = config
  with refusals.one_line(error=error, match=message):
    model = make_model(trial(name, **FEW | {'data.bounds': ()} | fields), RunFolder.at(tmp_path))
    model.check('train')
    model.network()


MEAN = np.array([0.5, -0.3, 0.2])
ROOT = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.5, 0.5]])


def conditional(row):
  """Returns mean and covariance of what is NaN in x ~ N(MEAN, ROOT ROOT^T)."""
  cov, a = ROOT @ ROOT.T, np.isnan(row)
  b = ~a
  gain = np.linalg.solve(cov[np.ix_(b, b)], cov[np.ix_(b, a)]).T
  mean = MEAN[a] + gain @ (row[b] - MEAN[b])
  return mean, cov[np.ix_(a, a)] - gain @ cov[np.ix_(b, a)]


@pytest.mark.slow
def test_each_conditional_of_a_gaussian_is_learnt():
  """Draws for six subsets have the closed form's mean and covariance."""
  module = MLP(channels=48, num_blocks=2, out_channels=3)
  network = dj.Network(
    network_fn(module),
    dj.edm_input,
    parametrization='edm',
    sigma_data=1.0,
    level_axes=2,
  )
  schedule = dj.KarrasSchedule(sigma_max=20.0)
  objective = denoising(
    network,
    schedule,
    times=dj.log_normal_times(-0.6, 1.4),
    weight=dj.edm_weight(1.0),
    levels=dj.subset_levels(1),
  )
  steps, size = 800, 256
  adam = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  rows = np.array(
    [[N, N, N], [N, 0.4, -0.6], [1.2, N, N], [N, N, 0.5], [-0.4, N, 0.1], [0.1, -1.0, N]]
  )
  draws = 1000  # a standard error of 0.03

  @jit_long
  def fitted(key):
    x = jnp.zeros((1, 3))
    first: Any = {'network': module.init(key, x, jnp.zeros((1, 3)))['params']}

    def step(carry, key):
      params, state = carry
      data_key, key = jax.random.split(key)
      x = jax.random.normal(data_key, (size, 3)) @ ROOT.T + MEAN[None]
      batch = {'x': x.astype(jnp.float32)}
      grads, _ = jax.grad(objective, has_aux=True)(params, Context(), key, batch)
      updates, state = adam.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, steps)
    trained: Any = jax.lax.scan(step, (first, adam.init(first)), keys)
    (params, _), _ = trained
    known = jnp.repeat(jnp.asarray(rows, jnp.float32), draws, axis=0)
    levels = dj.level_grid(schedule, 20)
    noise = dj.prior_sample(key, known.shape, levels.take(0))
    denoise = network.denoiser(params['network'])
    return dj.sample(key, denoise, dj.heun(), *dj.hold_known(levels, noise, known))

  x = np.asarray(fitted(jax.random.key(0))).reshape(len(rows), draws, 3)
  for row, each in zip(rows, x, strict=True):
    hidden = np.isnan(row)
    kept = np.broadcast_to(row[~hidden], (draws, 3 - hidden.sum()))
    assert_array_equal(each[:, ~hidden], kept.astype(np.float32))
    mean, cov = conditional(row)
    inverse = np.linalg.inv(np.linalg.cholesky(cov))
    z = (each[:, hidden] - mean) @ inverse.T  # exact draws are N(0, I)
    assert_allclose(z.mean(axis=0), 0.0, atol=0.3)
    found = np.cov(z.T).reshape(len(cov), -1)
    assert_allclose(found, np.eye(len(cov)), atol=0.4)
