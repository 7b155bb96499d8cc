"""Hooks act at their multiples and after the last step, and find the best checkpoint."""

import dataclasses
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import checkpoints
from tests.app.conftest import SEEN, smoke, trial
from tests.app.fields import within


def made(**fields):
  """Returns the config and the hooks of a training with these intervals."""
  names = {'log_every': 10, 'checkpoints__every': 25, 'num_steps': 63, **fields}
  config = smoke(**within('training', **names))
  model = make_model(config, RunFolder.at('nowhere'))
  return config, hooks.make_hooks(model, make_mesh(config))


def ends(config, todo, step):
  steps = []
  while step < config.training.num_steps:
    step = hooks.end_of_call(config, todo, step)
    steps.append(step)
  return steps


def test_a_call_ends_where_something_is_due():
  """Calls end at multiples of 10 and 25 and at 63, from any step."""
  c = made(steps_per_call=8)
  assert ends(*c, 0) == [8, 10, 18, 20, 25, 30, 38, 40, 48, 50, 58, 60, 63]
  assert ends(*c, 21) == [25, 30, 38, 40, 48, 50, 58, 60, 63]
  assert ends(*made(steps_per_call=1), 59) == [60, 61, 62, 63]
  traced = made(steps_per_call=8, machine__trace__first=14, machine__trace__steps=3)
  assert ends(*traced, 10) == [13, 16, 20, 25, 30, 38, 40, 48, 50, 58, 60, 63]
  last = made(log_every=0, checkpoints__every=0, steps_per_call=50)
  assert ends(*last, 0) == [50, 63]


def due(config, todo, step):
  """Returns the names of the due hooks in order."""
  names = {hooks.write_line: 'log', hooks.write_results: 'write'}
  return [
    'save' if hook.saves else names.get(hook.act) or hook.what[0].rpartition(' ')[2]
    for hook in hooks.due(config, todo, step)
  ]


def test_everything_is_due_at_its_multiples_and_after_the_last_step():
  """A checkpoint is saved before hooks that may fail, or with the metric."""
  c = made(held_out__every=7, sample_every=14)
  assert due(*c, 20) == ['log']
  assert due(*c, 25) == ['save']
  assert due(*c, 28) == ['images', 'write', 'preview']
  assert due(*c, 29) == []
  every = ['log', 'save', 'images', 'write', 'preview']
  assert due(*c, 63) == due(*c, 350) == every
  c = made(held_out__every=7, sample_every=14, checkpoints__best__number=1)
  assert due(*c, 25) == ['images', 'write', 'save']
  assert due(*c, 28) == ['images', 'write', 'preview']
  assert due(*c, 63) == ['log', 'images', 'write', 'save', 'preview']


def test_the_best_is_the_lowest_loss_and_the_highest_score(monkeypatch):
  signs = lambda model: {'is': True, 'fid': False}
  monkeypatch.setattr(hooks.scorers, 'higher_is_better', signs)
  results = {'test_loss': 0.5, 'is': 3.0, 'fid': 2.0}
  for name, criterion in (('test_loss', 0.5), ('is', -3.0), ('fid', 2.0)):
    config = smoke(**{'training.checkpoints.best.by': name})
    model = make_model(config, RunFolder.at('nowhere'))
    kept = hooks.with_criterion(model, results)
    assert kept == results | {checkpoints.CRITERION: criterion}
    assert hooks.with_criterion(model, {'other': 1.0}) == {'other': 1.0}
    assert hooks.with_criterion(model, {}) is None


def test_a_test_loss_that_raises_is_refused_before_the_first_step(tmp_path, monkeypatch):
  """A bug without a user's part keeps its traceback."""
  objective = diffusion.objective_of

  def broken(noisy, teacher, test=False):
    real = objective(noisy, teacher, test)
    if not test:
      return real
    return dataclasses.replace(real, draw=Mock(side_effect=ZeroDivisionError))

  monkeypatch.setattr(diffusion, 'objective_of', broken)
  with pytest.raises(ZeroDivisionError):
    MODES['train'](smoke(**SEEN), tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_measured_samples_are_drawn_in_batches():
  """Twelve of ten classes in turn, eight at a time."""
  model = make_model(smoke(**{'sampling.batch_size': 8}), RunFolder.at('nowhere'))
  _, inputs, *_ = hooks.first_samples(model, make_mesh(model.config), 12)
  state: Any = Mock(ema_params={})
  (_, *first), (_, *second) = (inputs(state, {}, start) for start in (0, 8))
  for (index, cond), numbers in ((first, range(8)), (second, range(8, 12))):
    assert_array_equal(index, numbers)
    assert_array_equal(cond['label'], np.array(numbers) % 10)


@pytest.mark.parametrize('config, few', [('digits', '3 of 16 samples are'), ('regression', '')])
def test_what_is_nan_is_crossed_out_and_not_measured(config, few, tmp_path, monkeypatch, capsys):
  """Pictures and points, some of them and all."""

  def draw(params, index, cond):
    x = np.zeros((len(index), *model.facts.x.shape), np.float32)
    x[: 3 if few else None] = np.nan
    return x, None, {}

  monkeypatch.setattr(hooks, 'generate', lambda *_: Mock(side_effect=draw, start=start))
  start = lambda *args: lambda: draw(*args)
  scored = within('evaluation', metrics=('fd',), features='pixels' if few else 'values')
  model: Any = make_model(
    trial(config, **scored, **{'training.metrics.images': 16}), RunFolder.at(tmp_path)
  )
  (tmp_path / 'samples').mkdir()
  log, state = Mock(results={}), Mock(ema_params={})
  for make in (hooks.drawing, hooks.measuring):
    make(model, make_mesh(model.config), (4,)).act(4, state, {}, log)
  assert log.results == {}
  sampler = model.config.sampling.sampler.name
  printed = capsys.readouterr().out
  for what in ('the preview is crossed out', 'no metrics'):
    problem = f'{few or "the samples are"} nan: sampling.sampler={sampler} may not allow'
    assert f'step 4: {what}: {problem}' in printed
  with Image.open(tmp_path / 'samples' / 'step_00000004.png') as sheet:
    assert sheet.getpixel((sheet.width // 2, sheet.height // 2)) == (224, 0, 0)


def test_a_training_and_the_test_loss_see_the_texts():
  """A test loss without its texts would measure the network at the empty text."""
  model: Any = make_model(trial('shapes_text'), RunFolder.at('nowhere'))
  c = model.config
  trained = next(datasets.batches(c, datasets.source_of(c), model.facts, 0))
  _, measured, *_ = hooks.evaluating(model, make_mesh(c), (1,)).inputs(None, {})
  length = c.conditioning.text.length
  for batch in (trained, measured):
    assert batch['text'].shape[1:] == batch['text_mask'].shape[1:] == (length,)
    assert batch['text_mask'].any(axis=1).all()


def test_a_validation_part_has_the_loss_that_decides():
  for fraction, split in ((0.0, 'test'), (0.1, 'validation')):
    config = smoke(**{'data.validation_fraction': fraction})
    assert datasets.held_out(config) == split
    assert hooks.best_by(config) == hooks.held_out_loss(config) == f'{split}_loss'
    config = smoke(**{'training.checkpoints.best.by': 'fid', 'data.validation_fraction': fraction})
    assert hooks.best_by(config) == 'fid'
