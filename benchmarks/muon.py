"""Muon by the matrices of a fused kernel, and by the kernel as one matrix.

  python -m benchmarks.muon --seeds=5   # the digits' DiT, 800 steps each

Printed: the held-out loss of each seed and arm, the mean of each with the deviation
over the seeds, and the mean of their differences with its standard error.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from configs import digits_dit
from diffusion_jax.app import cli
from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.report.record import read_curves
from diffusion_jax.runtime.run_folder import RunFolder

# Without names of fused parts each kernel is one matrix.
ARMS = {
  'parts': contextlib.nullcontext(),
  'whole': mock.patch.object(DiT, 'fused', property(lambda self: {})),
}


def held_out_loss(arm: str, seed: int, steps: int, rate: float, folder: str) -> float:
  """Trains the digits' DiT with Muon; returns its held-out loss after the last step."""
  run = RunFolder.at(Path(folder) / f'{arm}-{seed}')
  fields = {
    'seed': seed,
    'optimizer': 'muon',
    'optimizer.learning_rate': rate,
    'optimizer.decay': 'linear',
    'optimizer.warmup_steps': 20,
    'training.num_steps': steps,
    'training.sample_every': 0,
    'training.checkpoints.every': 0,
    'training.held_out.every': steps,
    'training.held_out.batches': 16,
    'training.average.decay': 0.97,
    'report.after_training': False,
  }
  config = store.completed(experiments.from_file(str(digits_dit.__file__), 'flow'))
  config = store.with_flags(config, [(name, str(x)) for name, x in fields.items()])
  with ARMS[arm]:
    cli.start(MODES['train'], config, run)
  return read_curves(run.path / 'metrics.jsonl')['test_loss'].values[-1]


def measure(seeds: int, steps: int, rate: float) -> dict[str, list[float]]:
  """Returns the losses of each arm by seed, and prints them."""
  losses: dict[str, list[float]] = {arm: [] for arm in ARMS}
  with tempfile.TemporaryDirectory() as folder:
    for seed in range(seeds):
      for arm in ARMS:
        losses[arm].append(held_out_loss(arm, seed, steps, rate, folder))
        print(f'seed {seed}, {arm}: {losses[arm][-1]:.5f}', flush=True)
  for arm, values in losses.items():
    print(f'{arm}: {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}')
  differences = np.subtract(losses['whole'], losses['parts'])
  error = np.std(differences, ddof=1) / np.sqrt(seeds)
  print(f'whole - parts: {np.mean(differences):.4f} ± {error:.4f}')
  return losses


if __name__ == '__main__':
  parser = argparse.ArgumentParser(prog='python -m benchmarks.muon')
  parser.add_argument('--seeds', type=int, default=5, help='at least 2')
  parser.add_argument('--steps', type=int, default=800, help='of a training')
  parser.add_argument('--rate', type=float, default=4e-3, help='learning rate')
  flags = parser.parse_args()
  measure(flags.seeds, flags.steps, flags.rate)
