"""Training curves here and in diffusers, on the same images.

  python -m benchmarks.curves --network=mnist --images=mnist.npz
  python -m benchmarks.curves --network=cifar10 --images=cifar.npz --steps=200

Both sides train UNet2DModel's network on DDPM's loss from the same first
weights, with the same batches in the same order, Adam, clipping and average;
each draws its own times and noise, by three seeds. The table has the mean loss
of windows of steps, +- the deviation over the seeds, and the seconds a step,
measured in turns. --images: an npz file with `images` uint8 [N, H, W(, C)].
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from benchmarks import cases, turns
from benchmarks.turns import Case, Worker

SIDES = {'ours': 'benchmarks.jax_side', 'diffusers': 'benchmarks.torch_side'}


def batches_of(path: str, size: int, steps: int) -> np.ndarray:
  """Returns uint8 [steps, size, H, W, C], drawn by a fixed seed."""
  with np.load(path, allow_pickle=False) as file:
    images = file['images']
  images = images if images.ndim == 4 else images[..., None]
  rng = np.random.default_rng(0)
  return images[rng.integers(len(images), size=(steps, size))]


def windows(losses: np.ndarray, count: int = 5) -> np.ndarray:
  """Returns the mean losses [seeds, count] of windows of steps."""
  return np.stack([x.mean(axis=1) for x in np.array_split(losses, count, 1)], 1)


def main(argv=None) -> None:
  """Trains, prints the table and writes the curves as JSON."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--network', choices=cases.CURVES, required=True)
  parser.add_argument('--images', required=True)
  parser.add_argument('--steps', type=int, default=1000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--rate', type=float, default=5e-4)
  parser.add_argument('--out', default='curves.json')
  args = parser.parse_args(argv)
  batch = cases.CURVES[args.network].batch
  images = batches_of(args.images, batch, args.steps)
  losses, seconds = {s: [] for s in SIDES}, {s: [] for s in SIDES}
  with Worker(SIDES['ours']) as ours, Worker(SIDES['diffusers']) as theirs:
    workers = {'ours': ours, 'diffusers': theirs}
    for worker in workers.values():
      worker.call('open', Case(network=args.network, batch=batch))
    facts = {name: worker.call('facts') for name, worker in workers.items()}
    theirs.call('begin', ours.call('begin'))
    for seed in range(args.seeds):
      for name, worker in workers.items():
        found, times = worker.call('curve', images, seed, args.rate)
        losses[name].append(found)
        seconds[name].append(times)
        print(f'{name}, seed {seed}: {times[0]:.3f} s a step', flush=True)
  Path(args.out).write_text(json.dumps({'losses': losses, 'seconds': seconds}))
  found = {name: windows(np.array(x)) for name, x in losses.items()}
  edges = np.linspace(0, args.steps, 6, dtype=int)
  print('\n| steps | ours | diffusers |\n|---|---|---|')
  for i in range(5):
    cells = [
      f'{x[:, i].mean():.4f} ± {x[:, i].std(ddof=args.seeds > 1):.4f}' for x in found.values()
    ]
    print(f'| {edges[i]} to {edges[i + 1]} | {" | ".join(cells)} |')
  for part, name in enumerate(('wall', 'processor')):
    ratio = turns.spread(turns.ratios(seconds['ours'], seconds['diffusers'], part))
    print(
      f'seconds a step, {name}: ours over diffusers {ratio["median"]:.2f} '
      f'({ratio["low"]:.2f} to {ratio["high"]:.2f})'
    )
  sizes = {name: x['parameters'] for name, x in facts.items()}
  print(f'{sizes} parameters; load {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
  main()
