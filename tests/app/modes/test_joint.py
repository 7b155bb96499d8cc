"""Any conditional of a vector by one network: the commands, and the truth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train_loop import hooks
from tests.app.conftest import arrays_of, of_run, params_of, refused, trial, untrained
from tests.app.fields import within

N = np.nan
ROWS = np.array([[N, N, 0.2, 0.1], [0.3, 1.0, N, N], [N, -0.4, 0.3, N], 4 * [N]])
FEW = within('data', num_examples=100, num_test=16, bounds=(-1.0, 1.0))
FEW |= within('training', evaluate_every=4)
FEW |= within('sampling', num_samples=5, batch_size=8)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of random parameters."""
  config = trial('joint', **FEW, **{'sampling.checkpoint': 'latest'})
  return untrained(config, tmp_path_factory.mktemp('joint') / 'run', 0.05)


def draw(run, rows, name='given'):
  """Returns what --mode=sample writes for rows of sampling.context."""
  np.save(run / 'row.npy', rows)
  fields = {'sampling.name': name, 'sampling.context': str(run / 'row.npy')}
  MODES['sample'](of_run(run, **fields), run)
  return arrays_of(run, name)


TOKENS = within('network', 'dit', channels=8, num_heads=2, num_blocks=1)
TOKENS |= within('network', patch_size=1, positions='learned')


@pytest.mark.slow
def test_tokens_of_numbers_are_trained_and_drawn(tmp_path):
  MODES['train'](trial('joint', **FEW | TOKENS), tmp_path)
  x = draw(tmp_path, ROWS)['arr_0'].reshape(4, 5, 4)
  known = ~np.isnan(ROWS)
  np.testing.assert_array_equal(x.swapaxes(0, 1)[:, known], [np.float32(ROWS[known])] * 5)
  assert np.isfinite(x).all()


def test_given_numbers_are_kept_and_others_drawn(run, capsys):
  found = draw(run, ROWS)
  x = found['arr_0'].reshape(4, 5, 4)
  for row, each in zip(ROWS, x, strict=True):
    known = ~np.isnan(row)
    kept = np.broadcast_to(np.float32(row[known]), (5, known.sum()))
    np.testing.assert_array_equal(each[:, known], kept)
    assert (each[:, ~known].std(axis=0) > 1e-3).all()
  assert (np.abs(x[:, :, :2]) <= 1.0).all()  # the box of the parameters
  assert 'of the draws were outside data.bounds' in capsys.readouterr().out
  far = draw(run, [N, N, 99.0, 0.0], 'far')
  assert np.isfinite(far['arr_0']).all()
  assert 'note: number 2 of row 0 of the context is' in capsys.readouterr().out


def test_draws_of_a_training_are_within_the_box(tmp_path, monkeypatch):
  """Metrics and previews see what --mode=sample and evaluate write."""
  seen = []
  scorer, sheet = hooks.scoring.scorer, hooks.draw_sheet

  def recorded(model):
    prepare, score = scorer(model)
    return prepare, lambda a: seen.append(a['values']) or score(a)

  def drawn(model, samples, *args):
    seen.append(samples)
    return sheet(model, samples, *args)

  monkeypatch.setattr(hooks.scoring, 'scorer', recorded)
  monkeypatch.setattr(hooks, 'draw_sheet', drawn)
  monkeypatch.setattr(hooks, 'FEW', 100)
  fields = within('training', metrics_every=4, metrics_images=20)
  fields |= within('training', sample_every=4)
  fields |= {'evaluation.metrics': 'moments'}
  MODES['train'](trial('joint', **FEW | fields), tmp_path)
  assert len(seen) >= 2
  for samples in seen:
    assert (np.abs(samples[:, :2]) <= 1.0).all()


def test_a_restored_vector_keeps_what_is_known(run):
  np.save(run / 'y.npy', [0.3, N, N, N])
  np.save(run / 'seen.npy', [1, 0, 0, 0])
  np.save(run / 'row.npy', [N, N, 0.2, N])
  fields = within('edit', 'restore', image=str(run / 'y.npy'), noise=0.1)
  fields |= within('edit', num_samples=2, output='restored')
  fields |= within('edit.operator', 'mask', mask=str(run / 'seen.npy'))
  fields |= within('sampling', context=str(run / 'row.npy'))
  MODES['edit'](of_run(run, **fields), run)
  x = arrays_of(run, 'restored', 'edits')['arr_0']
  np.testing.assert_allclose(x[:, 2], 0.2, atol=1e-5)


@pytest.mark.parametrize(
  'row, message',
  [
    ([N, 0.1, 0.2], r'row.npy has the shape \[3\], and \[4\] or \[K, 4\]'),
    ([[N] * 4, [0.1] * 4], 'row 1 of .*row.npy gives all numbers of x: NaN'),
    ([N, N, np.inf, 0.1], 'has numbers that are not finite'),
    ([1.5, N, N, N], 'row 0 of .*row.npy has a number outside data.bounds'),
  ],
)
def test_another_row_is_refused(run, row, message):
  refused(message, draw, run, row)


UNET = {'network': 'unet', 'network.attention_resolutions': ()}
ALL = {'conditioning.known.parameters': 4}


@pytest.mark.parametrize(
  'fields, message',
  [(ALL, 'must be less than the 4 numbers'), (UNET, 'input known, which unet .* to dit or mlp')],
)
def test_what_does_not_fit_is_refused(fields, message, tmp_path):
  def make():
    model = models.make(trial('joint', **FEW | fields), tmp_path)
    model.check('train')
    model.network()

  refused(message, make)


def test_the_network_sees_the_given_numbers_and_which_they_are(run):
  """tests/training/test_denoising.py has the loss; its optimum is their mean."""
  model: Any = models.make(of_run(run), run)
  params, level = params_of(run), model.noisy.schedule()(0.5)

  @jax.jit
  def x0(given):
    row = jnp.array([[N, N, N, 0.0]]).at[0, 2].set(given)
    return model.noisy.denoiser(params, {'known': row})(jnp.zeros((1, 4)), level).x0

  unknown, zero, large = (np.asarray(x0(given))[0, :2] for given in (N, 0.0, 0.3))
  assert (unknown != zero).all() and (zero != large).all()
