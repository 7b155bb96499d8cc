"""How much slower a training is whose checkpoints go into a bucket.

  python -m benchmarks.buckets gs://bucket/run 6      # rounds

Two processes train configs/digits.py in turns, in a folder and at the address.
A turn saves a checkpoint and then takes STEPS steps, while it is copied. Prints
the ratio of steps/s, in wall-clock and in processor time.
"""

import contextlib
import sys
import tempfile

from benchmarks import turns
from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.train import mode as train, setup
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.run_folder import RunFolder

STEPS = 200  # between two checkpoints, a fifth of the config's
FIELDS = {'num_steps': 10**6, 'sample_every': 0, 'held_out': None}


class Side:
  """A training in a folder or at an address."""

  def __init__(self, workdir: str):
    run_folder.POLL = 0.5  # A turn is shorter than the time between checkpoints.
    self._ends = contextlib.ExitStack()
    folder = RunFolder.at(workdir)
    self._ends.enter_context(run_folder.copying(folder.path))
    config = store.completed(experiments.from_file('configs/digits.py'))
    config = store.with_fields(config, {f'training.{n}': x for n, x in FIELDS.items()})
    parts = setup.prepare(config, folder)
    begun = train.begin(parts)
    assert begun is not None
    self._run, self._step = begun, begun.start

  def run(self) -> None:
    """Starts to save, and takes the steps."""
    self._run.log.save(self._run.state)
    end = self._step + STEPS
    while self._step < end:
      batches = self._run.take(self._step)
      self._run.advance(self._step, batches)
      self._step += len(batches)
      self._run.log.read(1)

  def wait(self) -> None:
    """Waits for the last step."""
    self._run.log.read()


def measure(address: str, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
  """Returns the spread of steps/s at the address / in a folder."""
  places = {'folder': f'{tempfile.mkdtemp()}/run', 'bucket': address}
  with contextlib.ExitStack() as stack:
    workers = {n: stack.enter_context(turns.Worker('benchmarks.buckets')) for n in places}
    for name, place in places.items():
      workers[name].call('open', place)
    times = turns.in_turns(workers, rounds, seconds)  # The first turn is not counted.
  times = times['folder'], times['bucket']
  return {n: turns.spread(turns.ratios(*times, i)) for i, n in enumerate(('wall', 'processor'))}


if __name__ == '__main__':
  for name, ratio in measure(sys.argv[1], int(sys.argv[2]), 1.0).items():
    print(f'{name}: {ratio["median"]:.3f} ({ratio["low"]:.3f} to {ratio["high"]:.3f})')
