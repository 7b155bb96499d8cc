"""Asked to stop: SIGTERM, as schedulers send it before they take a machine."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
  """Gives stop(step) -> whether to save after this step and leave.

  To be asked once after each step, by all processes: where there are several,
  all say yes at the same step, whichever of them got the signal. Later signals
  change nothing, so that what is being saved is saved.
  """
  if jax.process_count() > 1:  # jax.distributed took the signal for itself
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False  # only the main thread may take signals
    return
  asked = []
  before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
  try:
    yield lambda step: bool(asked)
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if asked else before)
