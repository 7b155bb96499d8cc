"""The order of azula's REABSampler, and with one symbol changed.

  python benchmarks/peers/azula_reab.py

Needs `pip install azula==0.11.1`, and nothing of this project. The docstring of
`REABSampler` multiplies the integral by sqrt(1 + exp(2 s)), which is
sqrt(alpha_s^2 + sigma_s^2) / alpha_s; the code has sigma_t for sigma_s. The
data are +1 and -1, whose denoiser is a tanh; the reference has 16,384 steps of
`HeunSampler`. The errors of 64 to 1,024 steps fall with the orders printed.
"""

import inspect

import torch
from azula import sample
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VPSchedule


class Exact(Denoiser):
  """E[x_0 | x_t] of x_0 = ±1 with noise of variance 1/4."""

  schedule = VPSchedule()

  def forward(self, x_t, t, **kwargs):
    """Returns it as the place of a point mass."""
    alpha, sigma = self.schedule(t)
    variance = alpha**2 / 4 + sigma**2
    weight = alpha / 4 / variance
    return DiracPosterior(weight * x_t + (1 - weight * alpha) * torch.tanh(alpha * x_t / variance))


def end(sampler, num_steps, **options):
  """Returns x at t = 0."""
  x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
  return sampler(Exact(), steps=num_steps, silent=True, dtype=torch.float64, **options)(x)


def main():
  """Prints the observed orders."""
  namespace = dict(vars(sample))
  source = inspect.getsource(sample.REABSampler)
  exec(source.replace('alpha_s**2 + sigma_t**2', 'alpha_s**2 + sigma_s**2'), namespace)
  truth = end(sample.HeunSampler, 16_384)
  for name, sampler in ('as it is', sample.REABSampler), ('sigma_s', namespace['REABSampler']):
    for order in 1, 2, 3:
      errors = torch.stack(
        [(end(sampler, n, order=order) - truth).abs().max() for n in (64, 128, 256, 512, 1024)]
      )
      observed = torch.log2(errors[:-1] / errors[1:])
      print(f'{name}, order={order}:', ' '.join(f'{value:.2f}' for value in observed))


if __name__ == '__main__':
  main()
