"""Runs of networks that are trained with more than a denoising loss."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.app import devices, ema, images, load, models
from diffusion_jax.app.modes import MODES, hooks
from diffusion_jax.app.modes.train_setup import jit_step, setup
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training import checkpoints
from diffusion_jax.training.objectives import Context
from diffusion_jax.training.state import init_state
from tests.app.conftest import CONFIGS, lines_of, smoke, trial

FEW = {'network.multipliers': (1,), 'network.attention_resolutions': ()}
RAW = {'training.ema_warmup': False, 'training.ema_decay': 0.0}


def test_augmentation_is_of_the_training_only(tmp_path):
  """The programs are traced only; the test loss has no augmentation."""
  changes = FEW | {'conditioning.augment': 0.5, 'training.accumulate': 2}
  parts = setup(trial('digits_edm', **changes), tmp_path)
  c, batch = parts.config, next(images.batches(parts.config, parts.source, 0))
  step = jit_step(c, parts.mesh, parts.objective, parts.optimizer, parts.shapes)
  key = jax.random.key(0)
  train = step.trace(parts.shapes, batch, key, {}).jaxpr
  params, losses = parts.shapes.params, parts.model.objective(test=True)
  test = jax.make_jaxpr(losses)(params, Context(), key, batch)
  # only the warp of the images has products of this precision
  assert 'Precision.HIGHEST' in str(train)
  assert 'Precision.HIGHEST' not in str(test)


def test_a_self_conditioned_run_trains_and_draws(tmp_path):
  fields = {'conditioning.self_conditioning': True, 'training.sample_every': 4}
  MODES['train'](smoke(**fields), tmp_path)
  assert len(lines_of(tmp_path, 'loss')) == 4
  assert (tmp_path / 'samples' / 'step_00000004.png').exists()


def row_errors(params):
  """Returns each kernel's relative distance of row norms from sqrt(fan in)."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'kernel':
      rows = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1]).T
      norms = np.linalg.norm(rows, axis=1)
      yield np.abs(norms / math.sqrt(rows.shape[1]) - 1.0).max()


def test_a_run_of_edm2_keeps_its_rows_normalised(tmp_path):
  """Rows are normalised at first and after each step."""
  fields = {
    'training.accumulate': 2,
    'training.checkpoint_every': 1,
    'training.keep_checkpoints': 4,
    'optimizer.warmup_steps': 0,
  }
  config = trial('digits_edm2', **FEW | fields)
  MODES['train'](config, tmp_path)
  init = jax.jit(models.make(config, tmp_path).init)(jax.random.key(0))
  assert init['network']['gain_out'] == 0.0
  assert max(row_errors(init)) < 1e-5
  names = {'network', 'uncertainty'}
  for step in range(1, 5):
    params, _ = checkpoints.restore_params(tmp_path, False, checkpoint=step)
    errors = list(row_errors(params))
    assert set(params) == names and len(errors) > 20 and max(errors) < 1e-5
    assert params['network']['gain_out'] != 0.0  # it is trained
    kernel = params['uncertainty']['linear']['kernel']
    assert np.abs(kernel - init['uncertainty']['linear']['kernel']).max() > 1e-3


def test_the_average_of_edm2_is_a_power_function():
  """The width 0.075 decays by (1 - 1 / (step + 1))^(gamma + 1)."""
  width = 0.075
  gamma = 10.2891
  assert math.isclose(
    math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))), width,
    rel_tol=1e-4,
  )  # fmt: skip
  config = load.from_file(str(CONFIGS / 'imagenet64_edm2.py'))
  rate, _ = ema.rates(load.completed(config))
  for step in (1000, 100_000, 524_287):
    expected = (1 - 1 / (step + 1)) ** (gamma + 1)
    np.testing.assert_allclose(rate(step), 1 - expected, rtol=1e-3)


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
  """Trains digits_vdm:smoke."""
  workdir = tmp_path_factory.mktemp('runs') / 'vdm'
  fields = RAW | {'training.evaluate_every': 4}
  MODES['train'](trial('digits_vdm', **fields), workdir)
  return workdir


def test_it_trains_its_schedule_and_evaluates_the_bound(learned):
  text = (learned / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  test = [line for line in lines if 'test_loss' in line][-1]
  parts = ('prior', 'diffusion', 'reconstruction')
  total = sum(test[f'test_{name}'] for name in parts)
  np.testing.assert_allclose(test['test_loss'], total, rtol=1e-5)
  params = checkpoints.restore_params(learned)[0]['schedule']
  moved = float(params['bias']) - trial('digits_vdm').schedule.gamma_min
  assert 1e-4 < abs(moved) < 0.1
  np.testing.assert_allclose(test['test_logsnr_0'], -params['bias'], rtol=1e-5)


class Now:
  """The attributes of a training that a hook reads."""

  def __init__(self, state):
    self.state, self.frozen, self.results = state, {}, {}


def test_the_bound_on_the_test_split_is_without_dropout(learned):
  """Networks that differ in dropout only have the same test loss."""
  values = []
  for rate in (0.0, 0.9):
    config = trial('digits_vdm', **{'network.dropout': rate})
    like = checkpoints.restore_params(learned)[0]
    run: Any = Now(init_state(like, optax.identity()))
    model = models.make(config, learned)
    hook = hooks.evaluating(model, devices.make_mesh(config), (1,))
    hook.act(4, run)
    values.append(run.results['test_loss'])
  assert values[0] == values[1]


def test_its_samples_follow_its_own_schedule(learned):
  config = trial('digits_vdm')
  mesh = devices.make_mesh(config)
  params = checkpoints.restore_params(learned)[0]
  generate = models.make(config, learned).generate(mesh)
  draw = lambda params: generate(replicate(mesh, params), np.arange(2), {})
  images = draw(params)
  bias = params['schedule']['bias'] + 2.0
  params['schedule'] = params['schedule'] | {'bias': bias}
  assert not np.allclose(images, draw(params))


def test_the_network_of_a_hybrid_has_twice_the_channels():
  model: Any = models.make(trial('digits_improved'), 'nowhere')
  shapes = models.shapes(model)['network']
  assert shapes['conv_out']['kernel'].shape[-1] == 2
  x = jnp.zeros((1, 8, 8, 1))
  cond = {'label': jnp.zeros(1, int)}
  denoise = lambda p: model.denoiser(p, cond)(x, model.schedule().at_step(5))
  assert jax.eval_shape(denoise, models.shapes(model)).x0.shape == x.shape
