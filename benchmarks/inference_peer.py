"""Trains and draws by the package sbi, for `benchmarks.inference`.

  python benchmarks/inference_peer.py simulations.npz NPSE 0 draws.npz

Needs `pip install sbi==0.27.0 torch==2.13.0`, and nothing of this project. The
file has theta [N, D], x [N, M], contexts [K, M], and low, high [D] of a uniform
prior, or empty ones. All settings are sbi's defaults. Draws [K, 10,000, D] are
written with the processor's seconds.
"""

import sys
import time

import numpy as np
import torch
from sbi.inference import FMPE, NPE, NPSE
from sbi.utils import BoxUniform

METHODS = {'NPE': NPE, 'NPSE': NPSE, 'FMPE': FMPE}


def main(path: str, method: str, seed: str, out: str) -> None:
  """Trains on the file's simulations and draws for its contexts."""
  torch.manual_seed(int(seed))
  with np.load(path) as file:
    arrays = {name: torch.tensor(file[name]).float() for name in file}
  low, high = arrays['low'], arrays['high']
  prior = BoxUniform(low, high) if len(low) else None
  inference = METHODS[method](prior=prior, show_progress_bars=False)
  start = time.process_time()
  inference.append_simulations(arrays['theta'], arrays['x'])
  estimator = inference.train()
  seconds = time.process_time() - start
  posterior = inference.build_posterior(estimator)
  start = time.process_time()
  draws = [
    posterior.sample((10_000,), x=x[None], show_progress_bars=False).numpy()
    for x in arrays['contexts']
  ]
  np.savez(
    out,
    draws=np.stack(draws),
    train_seconds=seconds,
    draw_seconds=(time.process_time() - start) / len(draws),
    epochs=inference.summary['epochs_trained'][-1],
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
