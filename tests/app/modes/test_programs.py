"""The programs that a training compiles, and when."""

import collections
import threading

import jax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES
from tests.app.conftest import lines_of, smoke
from tests.app.fields import typed

LARGE = 'make_arrays', 'train_step', 'eval_step', 'images'
EVERYTHING = typed("""
  training.sample_every=2 training.held_out.every=2 report.after_training=True
""")


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
  assert [counts.pop(name) for name in LARGE] == [1, 1, 1, 1]
  assert counts.total() < 20, counts
  beside = [name for name, beside in programs if beside]
  assert beside == ['make_arrays', 'eval_step', 'images']


@pytest.mark.slow
def test_programs_can_be_compiled_one_after_the_other(digits_run, tmp_path, programs):
  """The losses are the same, also with tuned programs. A thread compiles the first state only."""
  programs.clear()  # of the other run
  other = typed('training.machine.compile_ahead=False training.machine.compile=tuned')
  MODES['train'](smoke(**EVERYTHING, **other), tmp_path)
  assert [name for name, beside in programs if beside] == ['make_arrays']
  for name in ('loss', 'grad_norm', 'test_loss'):
    expected = lines_of(digits_run, name)
    assert_allclose(lines_of(tmp_path, name), expected, rtol=1e-5)
