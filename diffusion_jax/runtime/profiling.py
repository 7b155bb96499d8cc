"""Traces of what devices and host do, which `xprof server` shows."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.run_folder import Folder

FOLDER = Path('traces', 'plugins', 'profile')  # the folder in which xprof looks


@contextlib.contextmanager
def trace(workdir: Folder, name: str) -> Iterator[None]:
  """Traces a block, whose programs must end in it, as `name` in the run's traces/.

  Each process writes a file of its own. Nothing is written after an error.
  """
  place = make_folder(workdir, FOLDER / name)
  with tempfile.TemporaryDirectory(suffix='.tmp', dir=place) as folder:
    with jax.profiler.trace(folder):
      yield
    for path in Path(folder).rglob('*.xplane.pb'):
      path.replace(place / f'host_{jax.process_index()}.xplane.pb')
  print(f'wrote {place}: xprof server --logdir={workdir / FOLDER.parts[0]} shows it')


@contextlib.contextmanager
def trace_steps(
  advance: Callable, workdir: Folder, steps: Sequence[int], after: Callable[[int], object]
) -> Iterator[Callable]:
  """Yields `advance`, traced in its steps `first` to `last`.

  advance: (state, step, batches, frozen) -> (state, metrics) takes the steps
  after `step`, one for each batch; a call must not go beyond `last`. A training
  that begins between the two traces the rest. after(last): called when the
  trace is written, which takes time.
  """
  with contextlib.ExitStack() as session:
    first, last = steps
    begun = False

    def traced(state, step, batches, frozen):
      nonlocal begun
      if not first <= step + 1 <= last:
        return advance(state, step, batches, frozen)
      if not begun:
        begun = True
        jax.block_until_ready(state)
        session.enter_context(trace(workdir, f'steps_{step + 1}-{last}'))
      with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
        results = advance(state, step, batches, frozen)
      if step + len(batches) == last:
        jax.block_until_ready(results)
        session.close()
        after(last)
      return results

    yield traced
