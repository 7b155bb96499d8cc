"""Printed lines of a training are means over its steps, and NaN stops it."""

import itertools
import math

import numpy as np
import pytest
from tqdm import tqdm

from diffusion_jax.app.train import step_log
from diffusion_jax.app.train.step_log import StepLog, average
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Mean
from tests.app import toy_parts
from tests.app.conftest import refused, smoke
from tests.app.fields import within


def made(config, manager=None, start=20):
  bar, rates = tqdm(disable=True), np.full(100, 0.5)
  return StepLog(
    config,
    RunFolder.at('runs/x'),
    manager=manager,
    writer=Lines(),
    bar=bar,
    start=start,
    rates=rates,
    stored={},
  )


def test_averages_weigh_by_counts():
  """(2 + 9) / (1 + 3); a quarter of the levels that no step drew is NaN."""
  a = {'loss': Mean(2.0, 1.0), 'loss_quarter_1': Mean(0.0, 0.0)}
  b = {'loss': Mean(9.0, 3.0), 'loss_quarter_1': Mean(0.0, 0.0)}
  found = average([a, b])
  assert found['loss'] == 2.75 and math.isnan(found['loss_quarter_1'])
  assert average([]) == {}


@pytest.mark.parametrize('verbose', [False, True])
def test_a_note_follows_its_metric(verbose, capsys):
  log = made(smoke(**{'training.verbose': verbose}))
  log.notes['test_loss'] = 'linear 0.12'
  log.write(20, {'test_loss': 0.5, 'test_loss_quarter_1': 0.25})
  quarter = ' test_loss_quarter_1 0.25' * verbose
  assert capsys.readouterr().out == f'step 20: test_loss 0.5 (linear 0.12){quarter}\n'
  assert Lines.written.pop()[1]['test_loss_quarter_1'] == 0.25


def test_a_line_has_at_most_100_characters(capsys):
  """Numbers that do not fit go on in another line of the step, each once."""
  scalars = {f'metric_{i}': i / 7 for i in range(40)}
  log = made(smoke())
  log.write(1_000_000, scalars)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) > 1 and all(len(x) <= 100 for x in lines)
  start = 'step 1000000: '
  assert all(x.startswith(start) for x in lines)
  assert ' '.join(x.removeprefix(start) for x in lines) == (
    ' '.join(f'{n} {x:.4g}' for n, x in scalars.items())
  )
  assert all(len(f'{a} {b.split()[2]} {b.split()[3]}') > 100 for a, b in itertools.pairwise(lines))
  assert [*step_log.in_lines('s:', ['a' * 200, 'b'], 100)] == [f's: {"a" * 200}', 's: b']


def test_repaired_gradients_do_not_stop_a_run():
  metrics = {'loss': Mean(float('nan'), 1.0), 'grad_norm': Mean(1.0, 1.0)}
  manager = type('Manager', (), {'latest_step': lambda self: None})()

  def read(config):
    log = made(config, manager, start=0)
    log.add(range(7, 8), metrics)
    log.read()

  own = smoke(optimizer=f'{toy_parts.__name__}:optimizer')  # has no such field
  for config in (smoke(), own):
    refused('loss is nan at step 7', read, config)
  read(smoke(**{'optimizer.repair_gradients': True}))


def test_a_plan_that_is_nan_stops_a_run_and_one_that_is_off_says_so_once(capsys):
  """A plan that is NaN stops a training even if repaired gradients would let it go on."""
  manager = type('Manager', (), {'latest_step': lambda self: None})()
  log = made(smoke(**{'optimizer.repair_gradients': True}), manager, start=0)
  for step, error in enumerate((0.04, 0.12, 0.2), 1):
    metrics = {'loss': 1.0, 'grad_norm': 1.0, 'column_error': error}
    log.add(range(step, step + 1), {name: Mean(x, 1.0) for name, x in metrics.items()})
    log.read()
    log.write_line(step)
    assert Lines.written.pop()[1]['column_error'] == error
    printed = capsys.readouterr().out
    assert ('off by 12% in a column (column_error): raise' in printed) == (step == 2)
  log.add(range(4, 5), {n: Mean(math.nan, 1.0) for n in metrics})
  message = (
    'column_error is nan at step 4, since float32 does not resolve cost / epsilon .* '
    'and a larger objective.diffusion, or objective.coupling.epsilon'
  )
  refused(message, log.read)


def test_the_steps_of_a_call_are_counted_one_by_one():
  """The second and third of four are NaN: one may be left out, not two."""
  losses = np.array([1.0, float('nan'), float('nan'), 3.0])
  manager = type('Manager', (), {'latest_step': lambda self: 5})()

  def read(losses):
    log = made(smoke(**{'training.skip_nonfinite': 1}), manager, start=5)
    ones = np.ones(4)  # a stack may be longer than the call
    log.add(range(6, 9), {n: Mean(losses, ones) for n in ('loss', 'grad_norm')})
    log.read()
    log.write_line(8)
    return log

  refused('loss is nan at step 8, 2 steps in a', read, losses)
  read(losses[[0, 1, 3, 2]])
  step, scalars = Lines.written.pop()
  assert step == 8 and scalars['loss'] == 2.0  # of 1 and 3
  assert scalars['skipped_steps'] == 1


@pytest.mark.parametrize('seconds, days', [(800.0, None), (1800.0, '2.04')])
def test_a_training_of_days_says_so_once(seconds, days, monkeypatch, capsys):
  """98 steps of 800 or 1800 s are left after the second."""
  now = itertools.count(0.0, seconds)
  log = made(smoke(**{'training.num_steps': 100}), start=0)
  monkeypatch.setattr(step_log.time, 'monotonic', lambda: next(now))
  ones = {n: Mean(1.0, 1.0) for n in ('loss', 'grad_norm')}
  log._unread = [(range(i, i + 1), ones) for i in (1, 2, 3, 4)]
  log.read()
  printed = capsys.readouterr().out
  assert printed.count('this training will take') == bool(days)
  assert days is None or f'take {days} days, a step 1.8e+03 s: take a GPU' in printed


@pytest.mark.parametrize(
  'lost, more, verbose', [(1.0, '', True), (math.nan, ' skipped_steps 1', False)]
)
def test_a_printed_line_has_the_loss_the_speed_and_the_time_left(
  lost, more, verbose, monkeypatch, capsys
):
  """Step 30 of 100 after 4 s for ten steps: 70 steps take 28 s.

  A step of 4 TFLOP on one device.
  """
  now = iter([0.0, 0.0, 4.0])
  monkeypatch.setattr(step_log.time, 'perf_counter', lambda: next(now))
  log = made(smoke(**within('training', num_steps=100, skip_nonfinite=1, verbose=verbose)))
  log.flop = 4e12
  log.restart_clock(20)
  for step, x in ((29, lost), (30, 1.0)):
    names = 'grad_norm', 'loss', 'loss_quarter_1'
    log.add(range(step, step + 1), {n: Mean(x, 1.0) for n in names})
  log.read()
  log.write_line(30)
  log.write(30, {'test_loss': 2.0, 'other': math.nan})
  flops = '10 TFLOP/s, ' * verbose
  assert capsys.readouterr().out == (
    f'step 30: loss 1{more} (2.5 steps/s, {flops}00:28 left)\nstep 30: test_loss 2\n'
  )
  _, scalars = Lines.written[-2]  # metrics.jsonl has all
  assert {'loss_quarter_1', 'grad_norm', 'learning_rate'} <= scalars.keys()
  assert scalars['images_per_second'] == 20 and scalars['tflops'] == 10


class Lines:
  written = []

  def write_scalars(self, step, scalars):
    self.written.append((step, scalars))
