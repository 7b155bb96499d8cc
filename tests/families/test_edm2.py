"""A run of EDM2: normalised weights, learned weights of levels, resumed."""

import math
import shutil

import jax
import numpy as np

from configs import digits_edm2, imagenet64_edm2
from diffusion_jax import build, families
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.training import checkpoints


def row_errors(params):
  """How far norms of rows are from sqrt(fan in), relative; of each kernel."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'kernel':
      rows = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1]).T
      norms = np.linalg.norm(rows, axis=1)
      yield np.abs(norms / math.sqrt(rows.shape[1]) - 1.0).max()


def test_a_run_keeps_its_rows_normalised_and_resumes(tmp_path):
  """After each step, in two parts; four steps = two, a restart, two."""
  config = digits_edm2.get_config('smoke')
  config.training.mesh = (1, 1)
  config.training.sample_every = config.training.evaluate_every = 0
  config.network.multipliers = (1,)  # compiles in half of the time
  config.network.attention_resolutions = ()
  config.training.accumulate = 2
  config.training.checkpoint_every = 1
  config.training.keep_checkpoints = 4
  config.optimizer.warmup_steps = 0
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  PROGRAMS['train'](config, str(whole))
  first = families.of(config).init(config)
  init = jax.jit(first)(jax.random.key(0))
  assert init['network']['gain_out'] == 0.0
  assert max(row_errors(init)) < 1e-5
  names = {'network', 'uncertainty'}
  for step in range(1, 5):
    params, _ = checkpoints.restore_params(whole, False, checkpoint=step)
    errors = list(row_errors(params))
    assert set(params) == names and len(errors) > 20 and max(errors) < 1e-5
    assert params['network']['gain_out'] != 0.0  # it is trained
    kernel = params['uncertainty']['linear']['kernel']
    assert np.abs(kernel - init['uncertainty']['linear']['kernel']).max() > 1e-3

  shutil.copytree(whole, parts)
  for step in ('3', '4'):
    shutil.rmtree(parts / 'checkpoints' / step)
  PROGRAMS['train'](config, str(parts))
  for ema in (True, False):
    found = [checkpoints.restore_params(w, ema)[0] for w in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_average_of_the_recipe_is_a_power_function():
  """Of relative width 0.075: decay (1 - 1 / (step + 1))^(gamma + 1)."""
  width = 0.075
  gamma = 10.2891
  assert math.isclose(
    math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))), width,
    rel_tol=1e-4,
  )  # fmt: skip
  rate, _ = build.build_ema_decays(imagenet64_edm2.get_config())
  for step in (1000, 100_000, 524_287):
    expected = (1 - 1 / (step + 1)) ** (gamma + 1)
    np.testing.assert_allclose(rate(step), 1 - expected, rtol=1e-3)
