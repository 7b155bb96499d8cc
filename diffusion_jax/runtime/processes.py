"""Several processes that work together, on one machine or many.

Each process runs the same program on its own devices, and `jax.distributed`
joins all devices in one mesh. Only process 0 writes and prints.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import heartbeats

FLAGS = '--coordinator=host:port --num_hosts=2 --host=0'


def start(
  coordinator: str | None, num_hosts: int | None, host: int | None, heartbeat_timeout: int
) -> None:
  """Joins the other processes; from then on only process 0 prints.

  By default JAX detects SLURM, Kubernetes, TPU or MPI. A
  process that is silent for heartbeat_timeout seconds ends all of them.
  """
  check(coordinator, num_hosts, host)
  try:
    jax.distributed.initialize(
      coordinator,
      num_hosts,
      host,
      # Arguments and detected values must not be mixed.
      cluster_detection_method='deactivate' if coordinator else None,
      # heartbeats.py should notice a loss first: it names the process.
      heartbeat_timeout_seconds=heartbeat_timeout * (1 + heartbeats.available),
    )
  except (RuntimeError, ValueError) as error:
    if coordinator is None and 'should be defined' in str(error):
      raise UserError(
        f'--multihost: JAX detected no SLURM, Kubernetes, TPU or MPI: give {FLAGS}'
      ) from error
    raise UserError(f'--multihost: the processes could not connect: {error}') from error
  if jax.process_count() > 1:
    heartbeats.start(jax.process_index(), heartbeat_timeout)
  if jax.process_index():
    sys.stdout = open(os.devnull, 'w')


def check(coordinator, num_hosts, host):
  """Raises UserError for wrong or missing arguments, before waiting."""
  missing = [x is None for x in (coordinator, num_hosts, host)]
  if any(missing) and not all(missing):
    raise UserError(f'--multihost needs all of {FLAGS}, or none of them')
  if coordinator is None:
    return
  address = re.fullmatch(r'([\w.-]+|\[[\w:.%]+\]):(\d{1,5})', coordinator)
  if not address or not 0 < int(address[2]) < 2**16:
    raise UserError(f'--coordinator={coordinator} is not host:port, such as node0:1234')
  if num_hosts < 1 or not 0 <= host < num_hosts:
    raise UserError(f'--host={host}: with --num_hosts={num_hosts} it must be in 0..{num_hosts - 1}')


def started() -> bool:
  """Returns whether this is one of several processes."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Returns whether this is the process that writes."""
  return not started() or jax.process_index() == 0


def name() -> str:
  """Returns ' on host 1 of 2', for messages; '' for a single process."""
  if not started():
    return ''
  return f' on host {jax.process_index()} of {jax.process_count()}'


def leave(code: int) -> NoReturn:
  """Ends a process whose files are closed.

  A plain exit would wait for threads, which may compile for minutes. One of
  several processes has no such thread, and waits for the others.
  """
  if started():
    sys.exit(code)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def exit_all(code: int) -> NoReturn:
  """Ends this process because of an error, and the others with it.

  A plain exit would wait at a barrier for the others, which continue.
  """
  if not started():
    sys.exit(code)
  sys.stdout.flush()
  sys.stderr.flush()
  heartbeats.stop()
  if is_first():  # Without it the others abort before they print.
    time.sleep(3)
  else:
    heartbeats.report_failure(jax.process_index())
  os._exit(code)


def broadcast(values: Sequence[int]) -> np.ndarray:
  """Returns the first process's values in all processes."""
  return np.asarray(multihost_utils.broadcast_one_to_all(np.array(values)))


def wait_for_all(name: str) -> None:
  """Waits until all processes call it with this name, up to a day.

  A collective must not wait: processes connect at the first of each kind and
  give up after 30 s. Heartbeats notice a lost process.
  """
  day_ms = 24 * 3600 * 1000
  from orbax.checkpoint import multihost  # The import takes half a second.

  multihost.get_barrier_sync_fn()(key=name, timeout_ms=day_ms)
