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

import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import Phase, given, settings, strategies as st

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import mode, setup
from diffusion_jax.errors import Preempted, UserError
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.training import preemption
from tests.app.conftest import assert_same, smoke
from tests.app.fields import within
from tests.rows import slow

STEPS = 11
NAN = [(3, 4, 8), (3, 4, 5)]  # steps whose batch is NaN; of three in a row two are left out
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
  """Copies a run folder before some acts of hooks, as kill -9 leaves it."""

  def __init__(self, moments):
    self.moments, self.acts, self.copies = moments, itertools.count(), []

  def tick(self, workdir, log):
    moment = next(self.acts)
    if moment in self.moments:
      log.manager.wait_until_finished()
      self.copies.append(workdir.with_name(f'killed {moment}'))
      shutil.copytree(workdir, self.copies[-1])

  def within(self, make):
    def made(model, mesh):
      def wrapped(hook):
        def act(step, state, frozen, log):
          self.tick(model.workdir.path, log)
          hook.act(step, state, frozen, log)

        return hook._replace(act=act)

      return [wrapped(hook) for hook in make(model, mesh)]

    return made


def with_nan(batches, steps):
  def read(config, source, facts, start, rows):
    for step, batch in enumerate(batches(config, source, facts, start, rows), start + 1):
      bad = config.training.skip_nonfinite and step in steps
      yield batch | {'x': np.full_like(batch['x'], np.nan)} if bad else batch

  return read


def train(fields, nan, workdir, stop_at=None, kills=None):
  """Trains in this process, and stops before call number stop_at; returns why it is given up."""

  @contextlib.contextmanager
  def watch():
    yield lambda number: preemption.SIGTERM if number == stop_at else ''

  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
    patch.setattr(mode.preemption, 'watch', watch)
    patch.setattr(mode.datasets, 'batches', with_nan(mode.datasets.batches, nan))
    if kills:
      patch.setattr(setup.hooks, 'make_hooks', kills.within(setup.hooks.make_hooks))
    with contextlib.suppress(Preempted):
      try:
        MODES['train'](smoke(**fields), workdir)
      except UserError as error:
        return str(error).partition(': stopped')[0]
  return ''


def lines_of(path):
  lines = read_json_lines(path)
  return [{n: x for n, x in line.items() if n not in TIMES} for line in lines]


def content_of(workdir):
  """Returns what a run contains besides its metrics, by file or item, without times."""
  content = {}
  for path in sorted(filter(Path.is_file, workdir.rglob('*'))):
    name = path.relative_to(workdir).as_posix()
    if name.startswith('checkpoints/') or path.name == 'sessions.jsonl':
      continue
    if path.name == 'loss_floors.json':
      content[name] = json.loads(path.read_text()) | {'seconds': 0, 'sha256': ''}
      del content[name]['settings']['opened']  # by this file's functions, which copy the run
    elif not path.name.startswith('metrics.'):  # Numbered ones are of lost starts.
      content[name] = path.read_bytes()
  read = ocp.StandardCheckpointer().restore
  for path in sorted((workdir / 'checkpoints').glob('*/*')):
    name = path.relative_to(workdir).as_posix()
    if path.name in ('config', 'log', 'metrics'):
      content[name] = (
        path / 'metadata' if path.name != 'metrics' else path / 'metrics'
      ).read_bytes()
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


def check(fields, nan, stop_at, moments):
  with tempfile.TemporaryDirectory() as place:
    whole, stopped, kills = Path(place, 'whole'), Path(place, 'stopped'), Kills(moments)
    given_up = train(fields, nan, whole, kills=kills)
    train(fields, nan, stopped, stop_at)
    for other in (stopped, *kills.copies):
      assert train(fields, nan, other) == given_up
      assert lines_of(whole / 'metrics.jsonl') == lines_of(other / 'metrics.jsonl')
      if not given_up:  # It keeps the checkpoint of the interruption.
        assert_equal(whole, other)


USUAL = within(
  'training',
  num_steps=STEPS,
  log_to=(),
  log_every=4,
  held_out__every=2,
  held_out__batches=1,
  checkpoints__every=3,
  sample_every=3,
  skip_nonfinite=2,
)


@pytest.mark.parametrize(
  'fields, nan, stop_at, moments',
  [
    # stopped between NaN in a row; killed between the checkpoint and the preview of step 3, and
    # before the line of step 4
    (within('training.average', 'powers', **AVERAGES['powers']), NAN[1], 4, (3, 5)),
    # calls of four steps; stopped before the last one; killed between the checkpoint and the test
    # loss of step 6
    slow(within('training', steps_per_call=4, log_every=3), NAN[0], 3, (9,)),
  ],
)
def test_these_interruptions_leave_no_trace(fields, nan, stop_at, moments):
  check(USUAL | fields, nan, stop_at, moments)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=60, phases=[Phase.generate])
@given(
  fields=trainings(),
  nan=st.sampled_from(NAN),
  stop_at=st.integers(1, STEPS - 1),
  moment=st.integers(0, 25),
)
def test_interrupted_is_uninterrupted(fields, nan, stop_at, moment):
  check(fields, nan, stop_at, (moment,))
