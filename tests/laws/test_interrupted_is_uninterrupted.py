"""A training that is interrupted leaves the lines and files of one that is not.

It is stopped by SIGTERM between two calls, and killed at any moment, as a copy of
its folder shows. Planted faults that it catches: a log that forgets its sums, or
the steps left out in a row, at a start; a checkpoint of an interruption that takes
the place of another; previews and results of a step that a kill left out.
"""

import contextlib
import io
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import Phase, given, settings, strategies as st

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import mode, setup
from diffusion_jax.errors import Preempted
from diffusion_jax.training import preemption
from tests.app.conftest import assert_same, smoke
from tests.app.fields import within

STEPS = 11
NAN = 3, 4, 8  # steps whose batch is NaN
TIMES = 'images_per_second', 'tflops', 'mfu'
AVERAGES = {
  'decay': {},
  'half_life': {'images': 40, 'rampup': 0.5},
  'powers': {'widths': (0.05, 0.1), 'every': 2, 'keep': 3},
}


@st.composite
def trainings(draw):
  """Draws the fields of a training."""
  average = draw(st.sampled_from([*AVERAGES]))
  every = draw(st.sampled_from([3, 0, 2, 5]))
  held_out = draw(st.sampled_from([2, 4, None]))
  fields = within(
    'training',
    num_steps=STEPS,
    log_to=(),
    log_every=draw(st.sampled_from([4, 0, 1, 2, 5])),
    steps_per_call=draw(st.sampled_from([4, 1])),
    sample_every=draw(st.sampled_from([3, 0])),
    checkpoints__every=every,
    checkpoints__keep=draw(st.sampled_from([2, 1, 3])),
    checkpoints__multiples=draw(st.sampled_from([0, 2])),
    skip_nonfinite=draw(st.sampled_from([2, 0])),
    machine__compile_ahead=False,
  )
  if held_out:
    fields |= within('training', held_out__every=held_out, held_out__batches=1)
    if every and draw(st.booleans()):
      fields |= within('training', checkpoints__best__number=draw(st.integers(1, 2)))
  return fields | within('training.average', average, **AVERAGES[average])


class Kills:
  """Copies a run folder before an act of a hook, as kill -9 leaves it."""

  def __init__(self, moment):
    self.moment, self.copy = moment, None

  def tick(self, workdir, log):
    if not self.moment:
      log.manager.wait_until_finished()
      self.copy = workdir.with_name('killed')
      shutil.copytree(workdir, self.copy)
    self.moment -= 1

  def within(self, make):
    def made(model, mesh):
      def wrapped(hook):
        def act(step, state, frozen, log):
          self.tick(model.workdir, log)
          hook.act(step, state, frozen, log)

        return hook._replace(act=act)

      return [wrapped(hook) for hook in make(model, mesh)]

    return made


def with_nan(batches):
  def read(config, source, facts, start, rows):
    for step, batch in enumerate(batches(config, source, facts, start, rows), start + 1):
      bad = config.training.skip_nonfinite and step in NAN
      yield batch | {'x': np.full_like(batch['x'], np.nan)} if bad else batch

  return read


def train(fields, workdir, stop_at=None, kills=None):
  """Trains in this process, and stops before call number stop_at."""

  @contextlib.contextmanager
  def watch():
    yield lambda number: preemption.SIGTERM if number == stop_at else ''

  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
    patch.setattr(mode.preemption, 'watch', watch)
    patch.setattr(mode.datasets, 'batches', with_nan(mode.datasets.batches))
    if kills:
      patch.setattr(setup.hooks, 'make_hooks', kills.within(setup.hooks.make_hooks))
    with contextlib.suppress(Preempted):
      MODES['train'](smoke(**fields), workdir)


def lines_of(path):
  lines = map(json.loads, path.read_text().splitlines())
  return [{n: x for n, x in line.items() if n not in TIMES} for line in lines]


def content_of(workdir):
  """Returns what a run contains, by file or item, without times."""
  content = {'metrics.jsonl': lines_of(workdir / 'metrics.jsonl')}
  for path in sorted(filter(Path.is_file, workdir.rglob('*'))):
    name = path.relative_to(workdir).as_posix()
    if name.startswith('checkpoints/') or path.name == 'sessions.jsonl':
      continue
    if path.name == 'loss_floors.json':
      content[name] = json.loads(path.read_text()) | {'seconds': 0}
    elif not path.name.startswith('metrics.'):  # Numbered ones are of lost starts.
      content[name] = path.read_bytes()
  read = ocp.StandardCheckpointer().restore
  for path in sorted((workdir / 'checkpoints').glob('*/*')):
    name = path.relative_to(workdir).as_posix()
    if path.name in ('config', 'log', 'metrics'):
      content[name] = (path / 'metadata' if path.name != 'metrics' else path / 'metrics').read_bytes()
    elif path.is_dir():
      content[name] = read(path)
  return content


def assert_equal(whole, other):
  whole, other = content_of(whole), content_of(other)
  assert [*whole] == [*other]
  for name, content in whole.items():
    if isinstance(content, dict) and name.startswith('checkpoints'):
      assert_same(content, other[name])
    else:
      assert content == other[name], name


@settings(deadline=None, derandomize=True, max_examples=40, phases=[Phase.generate])
@given(fields=trainings(), stop_at=st.sampled_from([4, *range(1, STEPS)]), moment=st.sampled_from([7, *range(25)]))
def test_interrupted_is_uninterrupted(fields, stop_at, moment):
  with tempfile.TemporaryDirectory() as place:
    whole, stopped, kills = Path(place, 'whole'), Path(place, 'stopped'), Kills(moment)
    train(fields, whole, kills=kills)
    train(fields, stopped, stop_at)
    train(fields, stopped)
    assert_equal(whole, stopped)
    if kills.copy:
      train(fields, kills.copy)
      assert_equal(whole, kills.copy)
