"""The error of diffusers' DDIMScheduler on 'trailing' timesteps.

  python benchmarks/peers/diffusers_ddim.py

Needs `pip install diffusers==0.42.1`, and nothing of this project. `step` goes
from t to t - 1000 // N, but the next t is another one where N does not divide
1000: the network is then told another level than x has. For each N it
prints the relative error of x at the end, for x_0 ~ N(0, 1/4), and the error of
DDIM's formula between the same timesteps. It is issue 11347 of that project.
"""

import diffusers
import torch


def error(num_steps, formula):
  """Returns the relative error of x at the end, by the scheduler or the formula."""
  scheduler = diffusers.DDIMScheduler(timestep_spacing='trailing', clip_sample=False)
  scheduler.set_timesteps(num_steps)
  squares = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1)])  # at -1: clean
  times = [*scheduler.timesteps.tolist(), -1]
  x = (squares[times[0]] / 4.0 + 1.0 - squares[times[0]]).sqrt()
  for t, following in zip(times[:-1], times[1:], strict=True):
    alpha, sigma = squares[t].sqrt(), (1.0 - squares[t]).sqrt()
    eps = sigma * x / (alpha**2 / 4.0 + sigma**2)
    if formula:
      x0 = (x - sigma * eps) / alpha
      x = squares[following].sqrt() * x0 + (1.0 - squares[following]).sqrt() * eps
    else:
      x = scheduler.step(eps, t, x).prev_sample
  return abs(float(x) / 0.5 - 1.0)


def main():
  """Prints the errors."""
  print('steps, error, error of the formula')
  for num_steps in 50, 64, 100, 128, 200, 256, 300:
    print(num_steps, *(f'{error(num_steps, formula):.4f}' for formula in (False, True)))


if __name__ == '__main__':
  main()
