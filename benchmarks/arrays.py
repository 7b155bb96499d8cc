"""Samples of a Gaussian process against its exact moments.

For gp_sequences, fields and volumes it prints the standard deviation of a point
(exact: 1) and the largest error of the correlation at a lag along an axis, and
between channels; and the same for as many exact draws.

  python launch.py --config=RUN --mode=sample --config.sampling.num_samples=4000
  python -m benchmarks.arrays RUN/samples/NAME.npz
"""

import sys
from pathlib import Path

import numpy as np

from diffusion_jax.app.config import folder
from diffusion_jax.demos.simulators import gaussian_process, matern
from diffusion_jax.runtime.run_folder import RunFolder


def describe(name, z, length, correlation):
  """Prints the moments of z [n, *sides, C], standardised by the exact ones."""
  std = z.std(axis=0)
  each = f'{std.mean():.3f} ({std.min():.3f} to {std.max():.3f})'
  print(f'{name}: std {each}, mean at most {np.abs(z.mean(axis=0)).max():.3f}')
  z = (z - z.mean(axis=0)) / std
  for axis in range(1, z.ndim - 1):
    x = np.moveaxis(z, axis, -1)
    kernel = matern(x.shape[-1], length)[0]
    found = [np.mean(x[..., : len(kernel) - i] * x[..., i:]) for i in range(len(kernel))]
    error = np.abs(found - kernel)
    print(f'  axis {axis}: correlation within {error.max():.4f} of the kernel')
  if z.shape[-1] > 1:
    point = np.mean(z[..., 0] * z[..., 1], axis=0)
    print(
      f'  channels: correlation {point.mean():.4f} ({point.min():.3f} to '
      f'{point.max():.3f}), exact {correlation:g}'
    )


def main(file):
  """Describes a file of samples."""
  data = (folder.read_config(RunFolder.at(Path(file).parents[1])) or {})['data']
  mean, std = np.array(data['mean']), np.array(data['std'])
  with np.load(file) as arrays:
    x = arrays['arr_0']
  length, correlation = data['length'], data['correlation']
  describe(f'{len(x)} samples', (x - mean) / std, length, correlation)
  rng, channels = np.random.default_rng(9), len(std)
  mean, std, sides = (0.0,) * channels, (1.0,) * channels, tuple(data['sides'])
  exact = gaussian_process(
    rng, len(x), sides=sides, length=length, mean=mean, std=std, correlation=correlation
  )
  describe(f'{len(x)} exact draws', exact['x'], length, correlation)


if __name__ == '__main__':
  main(sys.argv[1])
