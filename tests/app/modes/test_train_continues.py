"""Where a training continues, on which devices, and what stops it."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import setup
from diffusion_jax.app.train.mode import ended
from diffusion_jax.runtime.compiling import Program
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Mean
from tests.app.conftest import interrupted, lines_of, params_of, refused, smoke
from tests.app.fields import typed


def test_a_run_continues_on_other_devices_and_in_parts(digits_run, tmp_path, capsys):
  """Two devices with accumulation have the losses of one device.

  A sync tool has left its files in every folder.
  """
  moved = typed('training.machine.mesh=1,2 training.machine.accumulate=2')
  parts = interrupted(digits_run, tmp_path / 'parts')
  for place in [parts, *(path for path in parts.rglob('*') if path.is_dir())]:
    (place / 'desktop.ini').touch()
  MODES['train'](smoke(**moved), parts)
  said = capsys.readouterr()
  assert 'devices: 1x2 cpu (data x fsdp)' in said.out
  assert 'checkpoints/2 has files of other programs: config/desk' in said.err
  assert (parts / 'checkpoints' / '4').is_dir()
  moved, stayed = (lines_of(r, 'loss') for r in (parts, digits_run))
  assert len(moved) == 4
  assert_allclose(moved, stayed, rtol=1e-5)


def step_in_numpy(monkeypatch, losses):
  """Makes steps that need no compiler: parameters and their averages are the loss."""

  def step(state, *_):
    loss = np.float32(losses[int(state.step)])
    full = lambda x: jax.device_put(np.full(x.shape, loss, x.dtype), x.sharding)
    params = jax.tree.map(full, state.params)
    metrics = dict.fromkeys(('loss', 'grad_norm'), Mean(loss, np.float32(1.0)))
    return state._replace(step=state.step + 1, params=params, ema_params=params), metrics

  monkeypatch.setattr(setup.compiling, 'in_place', lambda *_: Program(step, lambda *_: None))


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
  step_in_numpy(monkeypatch, [1.0, 1.0, np.nan, 1.0])
  message = 'loss is nan at step 3: stopped, .* keeps checkpoint 2'
  fields = typed('training.log_every=4 training.average.warmup=False')
  refused(message, MODES['train'], smoke(**fields), tmp_path)
  line = 'losses use, will still be 100% the first ones: shorten it by'
  assert line in capsys.readouterr().out  # 0.999^3
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']
  leaves = jax.tree.leaves(params_of(tmp_path))
  assert all((x == 1.0).all() for x in leaves)


@pytest.mark.slow
def test_steps_that_are_nan_may_be_left_out(tmp_path, monkeypatch):
  """NaN leaves only the step count changed; one too many in a row stops the run."""
  make = setup.make_train_step

  def make_step(*args, **fields):
    step = make(*args, **fields)

    def exploding(state, batch, *rest):
      bad = jnp.isin(state.step + 1, jnp.array([2, 4, 5]))
      return step(state, batch | {'x': jnp.where(bad, jnp.nan, batch['x'])}, *rest)

    return exploding

  monkeypatch.setattr(setup, 'make_train_step', make_step)
  fields = typed("""
    training.num_steps=6 training.log_every=3 training.skip_nonfinite=1
    training.checkpoints.every=1 training.checkpoints.keep=6
  """)
  message = 'loss is nan at step 5, 2 steps in a row: stopped, .*checkpoint 4'
  refused(message, MODES['train'], smoke(**fields), tmp_path)
  MODES['train'](smoke(**fields | {'training.skip_nonfinite': 2}), tmp_path)
  for which in ('average', 'raw'):
    at = [params_of(tmp_path, which, step=i) for i in range(1, 7)]
    same = [jax.tree.all(jax.tree.map(np.array_equal, a, b)) for a, b in itertools.pairwise(at)]
    assert same == [True, False, True, True, False]
  logged = lines_of(tmp_path)
  assert [x['skipped_steps'] for x in logged] == [1, 2]
  assert all(np.isfinite(x['loss']) for x in logged)


# -- a held-out loss that gets no better ---------------------------------------


LOSSES = {10: 1.0, 20: 2.0, 30: 0.5, 40: 0.6, 50: 0.5}


@pytest.mark.parametrize(
  'step, patience, best',
  [(10, 0, None), (10, 5, None), (20, 11, None), (20, 10, 10), (40, 10, 30), (50, 20, 30)],
)
def test_it_ends_after_steps_without_a_lower_loss(step, patience, best, tmp_path):
  """Lines of later steps, before a run was continued, do not count."""
  lines = [{'step': step, 'test_loss': x} for step, x in LOSSES.items()]
  lines.append({'step': 3, 'loss': 0.0})  # of training
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  config = smoke(**typed(f'training.held_out.patience={patience}'))
  why = ended(RunFolder.at(tmp_path), step, config)
  assert bool(why) == (best is not None)
  assert not why or f'has been lowest at step {best}, ' in why
  assert not ended(RunFolder.at(tmp_path / 'new'), step, config)


def test_a_training_ends_and_is_finished(tmp_path, monkeypatch, capsys):
  """The parameters stay the same: the loss is lowest at the first evaluation."""
  step_in_numpy(monkeypatch, [0.0] * 9)
  fields = typed("""
    training.held_out.every=1 training.held_out.patience=2 training.num_steps=9
  """)
  config = smoke(**fields)
  MODES['train'](config, tmp_path)
  losses = lines_of(tmp_path, 'test_loss')
  assert len(losses) == 3
  printed = capsys.readouterr()
  assert 'lowest at step 1,' in printed.out + printed.err
  MODES['train'](config, tmp_path)
  assert 'this run is finished: the test loss' in capsys.readouterr().out
  assert lines_of(tmp_path, 'test_loss') == losses
