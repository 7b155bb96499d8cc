"""The variance of deepinv's DDRM and of its paper's recursion.

  python benchmarks/peers/deepinv_ddrm.py

Needs `pip install deepinv==0.5.0`, and nothing of this project. Nothing is
measured (the mask is 0), and x_0 ~ N(0, 1) has the denoiser x / (1 + sigma^2).
Kawar et al. (2022), section 4, draw x_t ~ N(x_0_hat + sqrt(1 - eta^2) sigma_t
(x_(t+1) - x_0_hat) / sigma_(t+1), eta^2 sigma_t^2); the code divides the noise
by sqrt(2). The result is linear in the noise: its variance is halved.
"""

import deepinv
import numpy as np
import torch

ETA, SIZE = 0.85, 10_000
SIGMAS = np.append(np.geomspace(50.0, 1e-3, 100), 0.0)


class Exact(deepinv.models.Denoiser):
  """E[x_0 | x]."""

  def forward(self, x, sigma, *args, **kwargs):
    """Returns it for the variance 1."""
    return x / (1.0 + sigma**2)


def main():
  """Prints both variances."""
  mask = torch.zeros(1, 1, SIZE)
  physics = deepinv.physics.Inpainting(
    (1, 1, SIZE), mask, noise_model=deepinv.physics.GaussianNoise(0.1)
  )
  model = deepinv.sampling.DDRM(Exact(), sigmas=SIGMAS, eta=ETA)
  print('deepinv:  ', float(model(torch.zeros(1, 1, 1, SIZE), physics).var()))
  variance = SIGMAS[0] ** 2
  for sigma, following in zip(SIGMAS[:-1], SIGMAS[1:], strict=True):
    estimate = 1.0 / (1.0 + sigma**2)
    factor = estimate + np.sqrt(1.0 - ETA**2) * following / sigma * (1.0 - estimate)
    variance = factor**2 * variance + (ETA * following) ** 2
  print('the paper:', variance)


if __name__ == '__main__':
  main()
