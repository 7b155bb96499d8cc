"""The bound of duo's D3PMAbsorb, and with the alpha of its own schedule.

  python benchmarks/peers/duo_d3pm.py

Needs NumPy only. `algo.py` of the repository s-sahoo/duo is not on PyPI, so this
is its bound in our own words, but for one line, which is quoted: with the
log-linear schedule alpha = 1 - t, `nll_per_token` has `alpha_s = t - dt`, where
1 - (t - dt) is meant. The term matters where the network gives the mask a
probability. The third number is the KL of Austin et al. (2021), section 3, from
the full posteriors, whose probabilities sum to 1.
"""

import numpy as np

STEPS = 1000


def bound(alpha_s_of, p_x0, p_mask):
  """Returns the nats of a masked token, weighted by t, as the code writes it."""
  dt = 1.0 / STEPS
  t = np.arange(2, STEPS + 1) / STEPS
  alpha_t, alpha_s = 1.0 - t, alpha_s_of(t, dt)
  at_t = np.log(alpha_t * p_mask / t + 1.0)
  at_s = np.log(alpha_s * p_mask / (t - dt) + 1.0)
  terms = dt / t * (at_t - np.log(p_x0)) + (1.0 - dt / t) * (at_t - at_s)
  return np.sum(t * terms)


def posterior(p, alpha_s, alpha_t):
  """Returns p(x_s | x_t = mask) of a law p of x_0 whose last entry is the mask."""
  law = (alpha_s - alpha_t) * p
  law[-1] = 1.0 - alpha_s + alpha_s * p[-1]
  return law / (1.0 - alpha_t + alpha_t * p[-1])


def literal(p_x0, p_mask):
  """Returns the same from the KL of the two posteriors."""
  total, model = 0.0, np.array([p_x0, 1.0 - p_x0 - p_mask, p_mask])
  for i in range(2, STEPS + 1):
    alpha_s, alpha_t = 1.0 - (i - 1) / STEPS, 1.0 - i / STEPS
    truth = posterior(np.array([1.0, 0.0, 0.0]), alpha_s, alpha_t)
    law = posterior(model, alpha_s, alpha_t)
    assert abs(law.sum() - 1.0) < 1e-12
    seen = truth > 0.0
    total += i / STEPS * np.sum(truth[seen] * np.log(truth[seen] / law[seen]))
  return total


def main():
  """Prints the nats: `t - dt`, 1 - (t - dt), the KL of the posteriors."""
  for p_x0, p_mask in (0.1, 0.0), (0.1, 0.1), (0.1, 0.5), (0.01, 0.9):
    values = (
      bound(lambda t, dt: t - dt, p_x0, p_mask),
      bound(lambda t, dt: 1.0 - (t - dt), p_x0, p_mask),
      literal(p_x0, p_mask),
    )
    print(f'p(x_0) {p_x0}, p(mask) {p_mask}:', ' '.join(f'{value:.3f}' for value in values))


if __name__ == '__main__':
  main()
