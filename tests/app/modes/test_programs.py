"""The programs that a training compiles, and when."""

import collections
import threading

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import devices
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train_loop import hooks
from tests.app.conftest import lines_of, smoke
from tests.app.fields import within

LARGE = 'make_arrays', 'train_step', 'eval_step', 'images'
EVERYTHING = within('training', sample_every=2, evaluate_every=2)
EVERYTHING |= within('report', after_training=True)


@pytest.fixture
def programs():
  """Collects (name, whether a thread compiles it) of XLA's programs.

  Programs that are read from the cache count too.
  """
  found = []

  def listen(event, seconds, fun_name='', **_):
    if event.endswith('backend_compile_duration'):
      beside = threading.current_thread() is not threading.main_thread()
      found.append((fun_name.removeprefix('jit(').removesuffix(')'), beside))

  jax.clear_caches()
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


TRACED = collections.Counter()


def counting():
  """Returns DDIM, and counts how often its step is traced."""
  inner = dj.ddim()

  def step(*args, **levels):
    TRACED['step'] += 1
    return inner.step(*args, **levels)

  return inner._replace(step=step)


def test_a_training_has_four_large_programs_and_few_operations(tmp_path, programs):
  """The first state, the step, the test loss and the sampler.

  A user's sampler is tried on shapes, and not traced again for previews.
  """
  own = {'sampling.sampler': f'{__name__}:counting'}
  MODES['train'](smoke(**EVERYTHING | own), tmp_path)
  assert len([*(tmp_path / 'samples').glob('step_*.png')]) == 2
  assert TRACED['step'] == 2  # tried, then compiled
  counts = collections.Counter(name for name, _ in programs)
  assert {n: counts.pop(n) for n in LARGE} == {
    'make_arrays': 1,
    'train_step': 1,
    'eval_step': 1,
    'images': 1,
  }
  assert counts.total() < 20
  beside = [name for name, beside in programs if beside]
  assert beside == ['eval_step', 'images']


def test_programs_can_be_compiled_one_after_the_other(digits_run, tmp_path, programs):
  """The losses are the same, also with tuned programs."""
  programs.clear()  # of the other run
  other = {'training.compile_ahead': False, 'training.compile': 'tuned'}
  MODES['train'](smoke(**EVERYTHING, **other), tmp_path)
  assert not any(beside for _, beside in programs)
  for name in ('loss', 'grad_norm', 'test_loss'):
    expected = lines_of(digits_run, name)
    np.testing.assert_allclose(lines_of(tmp_path, name), expected, rtol=1e-5)


def test_an_error_of_a_thread_stops_the_hook_that_waits_for_it(tmp_path, monkeypatch):
  """The steps before it are saved, as with the hook's own error."""

  def compile(*args):
    raise RuntimeError('out of memory')

  drawing = hooks.drawing

  def failing(*args):
    hook = drawing(*args)
    return hook._replace(program=hook.program._replace(compile=compile))

  monkeypatch.setattr(hooks, 'drawing', failing)
  with pytest.raises(RuntimeError, match='out of memory'):
    MODES['train'](smoke(**EVERYTHING), tmp_path)
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({'num_steps': 2000}, 'fast'),
    ({'num_steps': 2001}, 'tuned'),
    ({'num_steps': 2001, 'compile': 'fast'}, 'fast'),
    ({'num_steps': 1, 'compile': 'tuned'}, 'tuned'),
  ],
)
def test_a_long_training_is_tuned(fields, expected):
  config = smoke(**within('training', **fields))
  assert devices.effort(config) == expected
