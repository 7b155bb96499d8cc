"""Two simple models of a table, which a good one has to beat: independent columns, and a mixture.

The mixture has K components. In a component columns are independent: numbers, taken by
their quantiles to a normal, are Gaussian, and categories have probabilities. It is
fitted by EM; a cell that is missing has no part in it. Such mixtures are shallow probabilistic
circuits, which are strong on tables.
"""

import numpy as np

from diffusion_jax.data import quantiles
from diffusion_jax.data.sources import some_of

COMPONENTS = 50
STEPS = 30
MOST_ROWS = 10_000  # that EM reads
_LEAST = 0.05  # the smallest deviation of a component


def shares(cells: np.ndarray, size: int) -> np.ndarray:
  """Returns the share of each of `size` categories, [size]; zeros without cells."""
  counts = np.bincount(cells.astype(int), minlength=size)
  return counts / max(1, len(cells))


def drawn(rows: np.ndarray, sizes: np.ndarray, count: int, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns {'independent', 'mixture'}: rows that these models draw, fitted to `rows` [N, C]."""
  return {
    'independent': independent(rows, count, seed),
    'mixture': mixture(rows, sizes, count, seed=seed),
  }


def independent(rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
  """Draws each column from its own cells, independently of the other columns."""
  rng = np.random.default_rng(seed)
  columns = [cells[~np.isnan(cells)] for cells in rows.T]
  draws = [rng.choice(x, count) if len(x) else np.full(count, np.nan) for x in columns]
  return np.stack(draws, axis=1)


def mixture(
  rows: np.ndarray, sizes: np.ndarray, count: int, components: int = COMPONENTS, seed: int = 0
) -> np.ndarray:
  """Draws from a mixture of products, fitted by STEPS of EM to at most MOST_ROWS rows."""
  rng, is_number = np.random.default_rng(seed), sizes == 0
  curves = {
    i: quantiles.fitted(rows[~np.isnan(rows[:, i]), i])
    for i in np.flatnonzero(is_number).tolist()
    if not np.isnan(rows[:, i]).all()
  }
  few = rows[some_of(rows, MOST_ROWS)].copy()
  for i, curve in curves.items():
    few[:, i] = quantiles.to_normal(few[:, i], *curve)
  weights, parts = fit(few, sizes, min(components, len(few)), rng)
  of = rng.choice(len(weights), count, p=weights)
  x = np.full((count, len(sizes)), np.nan)
  for i, size in enumerate(sizes.tolist()):
    if size:
      below = np.cumsum(parts[i], axis=1)[of]
      x[:, i] = np.minimum((rng.random(count)[:, None] > below).sum(axis=1), size - 1)
    elif i in curves:
      mean, std = parts[i]
      x[:, i] = quantiles.from_normal(mean[of] + std[of] * rng.normal(size=count), *curves[i])
  return x


def fit(
  z: np.ndarray, sizes: np.ndarray, components: int, rng: np.random.Generator
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
  """Returns the weights [K] and the parts of each column: (mean, std) [2, K], or p [K, size].

  z: rows whose numbers are about standard normal.
  """
  known = ~np.isnan(z)
  filled = np.where(known, z, 0.0)
  posterior = rng.dirichlet(np.full(components, 0.1), len(z))
  weights, parts = np.ones(components) / components, {}
  for _ in range(STEPS):
    weights = posterior.mean(axis=0)
    log_p = np.tile(np.log(weights + 1e-12), (len(z), 1))
    for i, size in enumerate(sizes.tolist()):
      of = posterior * known[:, i : i + 1]
      total = of.sum(axis=0) + 1e-9
      if size:
        hot = np.eye(size)[filled[:, i].astype(int)]
        p = (of.T @ hot + 0.1 / size) / (total + 0.1)[:, None]
        parts[i] = p / p.sum(axis=1, keepdims=True)
        log_p += known[:, i : i + 1] * np.log(parts[i]).T[filled[:, i].astype(int)]
      else:
        mean = of.T @ filled[:, i] / total
        square = (of * (filled[:, i : i + 1] - mean) ** 2).sum(axis=0) / total
        std = np.sqrt(square + _LEAST**2)
        parts[i] = np.stack([mean, std])
        log_p -= known[:, i : i + 1] * (
          0.5 * ((filled[:, i : i + 1] - mean) / std) ** 2 + np.log(std)
        )
    log_p -= log_p.max(axis=1, keepdims=True)
    posterior = np.exp(log_p)
    posterior /= posterior.sum(axis=1, keepdims=True)
  return weights, parts
