"""Traces, as JAX's reader of them sees them."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.runtime import profiling

STEP = jax.jit(lambda x: x + 1)


def steps_in(workdir, name):
  """Returns the numbers of the steps in a trace's only file."""
  (path,) = (workdir / profiling.FOLDER / name).iterdir()
  assert path.name == 'host_0.xplane.pb'
  planes = jax.profiler.ProfileData.from_file(str(path)).planes
  events = (event for plane in planes for line in plane.lines for event in line.events)
  return sorted(dict(event.stats)['step_num'] for event in events if event.name == 'train')


def run(workdir, traced, start, calls):
  """Runs the step numbers of each call after `start`; returns the last state."""

  def advance(state, step, batches, frozen):
    for _ in batches:
      state = STEP(state)
    return state, {}

  state, step, ends = jnp.array(start), start, []
  with profiling.trace_steps(advance, workdir, traced, ends.append) as advance:
    for count in calls:
      state, _ = advance(state, step, [()] * count, ())
      step += count
  assert ends == [last for last in traced[1:] if start < last]
  return int(state)


@pytest.mark.parametrize(
  'traced, start, calls, name, found',
  [
    ((2, 3), 0, [1, 1, 1, 1], 'steps_2-3', [2, 3]),
    ((2, 3), 2, [1, 1], 'steps_3-3', [3]),  # a run that continues
    ((3, 6), 0, [2, 2, 2], 'steps_3-6', [3, 5]),  # two steps a call
  ],
)
def test_a_trace_has_the_steps_of_its_range(traced, start, calls, name, found, tmp_path):
  assert run(tmp_path, traced, start, calls) == start + sum(calls)
  assert steps_in(tmp_path, name) == found


def test_a_training_that_begins_after_the_range_has_no_trace(tmp_path):
  assert run(tmp_path, (2, 3), 3, [1]) == 4
  assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_trace_and_no_session(tmp_path):
  with pytest.raises(ZeroDivisionError), profiling.trace(tmp_path, 'broken'):
    raise ZeroDivisionError
  with profiling.trace(tmp_path, 'whole'):
    STEP(jnp.array(0)).block_until_ready()
  names = {path.parent.name for path in tmp_path.rglob('*.*')}
  assert names == {'whole'}


def test_only_a_warning_about_a_type_made_in_c_is_no_error():
  """jaxlib cannot raise it: the process would end (`steps_in`, JAX 0.12)."""
  with warnings.catch_warnings(record=True) as found:
    warnings.warn('builtin type x has no __module__ attribute', DeprecationWarning, stacklevel=1)
  assert len(found) == 1
  with pytest.raises(DeprecationWarning):
    warnings.warn('x has no __module__ attribute', DeprecationWarning, stacklevel=1)
