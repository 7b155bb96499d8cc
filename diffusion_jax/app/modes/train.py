"""Implements --mode=train: trains, or continues a run where it stopped."""

import itertools
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.modes import hooks, report
from diffusion_jax.app.modes.train_run import begin, ended
from diffusion_jax.app.modes.train_setup import Setup, setup
from diffusion_jax.app.run.step_log import StepLog
from diffusion_jax.errors import Preempted
from diffusion_jax.runtime import lock, processes, sessions
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.training import preemption


def run(config: Node, workdir: str | Path) -> None:
  """Trains up to training.num_steps; writes into workdir only.

  After SIGTERM it saves and raises Preempted, after Ctrl-C KeyboardInterrupt.
  """
  with preemption.watch() as stop:
    parts = setup(config, workdir)  # refuses what cannot be trained
    with lock.hold(make_folder(workdir)):
      log = train(parts, stop)
  if log is not None:
    report.after_training(config, workdir, log.film)


def train(parts: Setup, stop: Callable[[int], str]) -> StepLog | None:
  """Trains, and returns the log, or None if all steps were done before.

  stop: see `preemption.watch`.
  """
  run = begin(parts)
  if run is None:
    return None
  patience = parts.config.training.patience
  with run.log.open():
    step, following = run.start, None
    for call in itertools.count():
      if why := stop(call):
        error = Preempted if why == preemption.SIGTERM else KeyboardInterrupt
        raise error(run.interrupt(step, why))
      batches = following or run.take(step)
      run.advance(step, batches)
      step += len(batches)
      due = hooks.due(parts.config, parts.hooks, step)
      # The next batches are read while the devices compute, but not before a
      # due hook, which a damaged image must not prevent.
      following = None if due else run.take(step)
      run.log.read(0 if due else 1)  # 1: all but the call just started
      run.act(step, due)
      if step == parts.config.training.num_steps:
        break
      if due and (why := ended(parts.workdir, step, patience)):
        run.act(step, [hook for hook in parts.hooks if hook not in due])
        tqdm.write(f'step {step}: {why}')
        break
  if processes.is_first():
    sessions.write_end(parts.workdir, step)
  print(f'trained {step} steps: {parts.workdir}')
  return run.log
