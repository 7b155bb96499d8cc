"""The exact distribution of inpainted Gaussians x_2 | x_1, in float64 NumPy.

With the denoiser of Gaussian data every step of every method is linear, so x_2
given x_1 is a Gaussian whose slope and variance follow step by step.

  python -m tests.sampling.chains     # of docs/results.md
"""

from typing import Any

import numpy as np

COV = np.array([[1.0, 0.9], [0.9, 1.0]])
TRUTH = 0.9, 0.19**0.5


def grid(num_steps):
  """Returns alpha and sigma of DDPM's schedule at num_steps even steps."""
  alpha_bars = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
  alpha_bars = np.append(1.0, alpha_bars)
  i = np.rint(np.linspace(1000, 0, num_steps + 1)).astype(int)
  return np.sqrt(alpha_bars[i]), np.sqrt(1.0 - alpha_bars[i])


def times(steps, jump, num_resamples):
  """Returns RePaint's times as in its released code (recipes.md, 8)."""
  left = {i: num_resamples - 1 for i in range(0, steps - jump, jump)}
  t, times = steps, []
  while t >= 1:
    t -= 1
    times.append(t)
    if left.get(t, 0) > 0:
      left[t] -= 1
      for _ in range(jump):
        t += 1
        times.append(t)
  return np.array([*times, -1])


def ancestral(a, s, t, u):
  """Returns DDPM Eq. 7 for any two levels: estimate, kept, variance."""
  if s[u] == 0.0:
    return 1.0, 0.0, 0.0
  ratio = a[t] / a[u]
  added = s[t] ** 2 - ratio**2 * s[u] ** 2
  estimate = a[u] * added / s[t] ** 2
  return estimate, ratio * s[u] ** 2 / s[t] ** 2, s[u] ** 2 * added / s[t] ** 2


def law(method, num_steps, num_resamples=1, jump=10) -> Any:
  """Returns (slope, standard deviation) of x_2 | x_1 by ancestral sampling."""
  a, s = grid(num_steps)
  marginals = a[:, None, None] ** 2 * COV + s[:, None, None] ** 2 * np.eye(2)
  gains = a[:, None, None] * COV @ np.linalg.inv(marginals)
  steps = np.arange(num_steps + 1)
  if method == 'repaint':
    steps = num_steps - 1 - times(num_steps, jump, num_resamples)
  mean, var = 0.0, 1.0  # of x_2 for x_1 = 1
  known = 0.0, 1.0  # of x_1 in the state, noise at first
  for t, u in zip(steps[:-1], steps[1:], strict=True):
    if u < t:  # to a noisier level
      ratio = a[u] / a[t]
      var = ratio**2 * var + s[u] ** 2 - ratio**2 * s[t] ** 2
      mean *= ratio
      continue
    if method == 'repaint':
      known = a[t], s[t] ** 2
    estimate, kept, noise = ancestral(a, s, t, u)
    if method == 'reconstruction':
      gain = a[t] * 0.19 / (a[t] ** 2 * 0.19 + s[t] ** 2)
      slope = estimate * gain + kept
      mean = estimate * (1.0 - a[t] * gain) * 0.9 + slope * mean
      var = slope**2 * var + noise
      continue
    from_1, from_2 = estimate * gains[t, 1] + kept * np.array([0.0, 1.0])
    mean = from_1 * known[0] + from_2 * mean
    var = from_1**2 * known[1] + from_2**2 * var + noise
    if method == 'replace':
      known = a[u], s[u] ** 2
  return mean, var**0.5


def main():
  """Prints slope and spread for every method on three grids."""
  grids = [(100, 10), (250, 10), (250, 1)]
  rows = {'truth': [TRUTH] * 3}
  rows['replacement'] = [law('replace', n) for n, _ in grids]
  for r in (1, 5, 10, 20, 100):
    rows[f'RePaint({r})'] = [law('repaint', n, r, jump) for n, jump in grids]
  rows['reconstruction'] = [law('reconstruction', n) for n, _ in grids]
  for name, row in rows.items():
    numbers = ' | '.join(f'{slope:.3f}, {std:.3f}' for slope, std in row)
    print(f'| {name} | {numbers} |')


if __name__ == '__main__':
  main()
