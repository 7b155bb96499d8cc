"""Three simple models of a table, which a good one has to beat.

Independent columns have no pairs. SMOTE (Chawla et al. 2002) moves a row towards one of its
nearest rows; categories are the commonest among them (SMOTENC, as in imbalanced-learn, of the whole
table in place of a class).

The mixture has K components. In a component columns are independent: numbers, taken by
their quantiles to a normal, are Gaussian, and categories have probabilities. It is
fitted by EM; a cell that is missing has no part in it. Such mixtures are shallow probabilistic
circuits, which are strong on tables.
"""

import functools

import numpy as np

from diffusion_jax.data import quantiles
from diffusion_jax.data.sources import some_of

COMPONENTS = 50
STEPS = 30
MOST_ROWS = 10_000  # that EM and SMOTE read
_LEAST = 0.05  # the smallest deviation of a component
NEIGHBOURS = 5  # of a row, in SMOTE


def shares(cells: np.ndarray, size: int) -> np.ndarray:
  """Returns the share of each of `size` categories, [size]; zeros without cells."""
  counts = np.bincount(cells.astype(int), minlength=size)
  return counts / max(1, len(cells))


def drawn(rows: np.ndarray, sizes: np.ndarray, count: int, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns {'independent', 'smote', 'mixture'}: rows that these models draw, fitted to rows.

  The last draws are kept, for several metrics ask for the same.
  """
  cells = np.asarray(rows, np.float64)
  return _drawn(cells.tobytes(), cells.shape, (*np.asarray(sizes).tolist(),), count, seed)


@functools.lru_cache(maxsize=1)
def _drawn(cells, shape, sizes, count, seed):
  rows, sizes = np.frombuffer(cells).reshape(shape), np.array(sizes)
  return {
    'independent': independent(rows, count, seed),
    'smote': smote(rows, sizes, count, seed),
    'mixture': mixture(rows, sizes, count, seed=seed),
  }


def independent(rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
  """Draws each column from its own cells, independently of the other columns."""
  rng = np.random.default_rng(seed)
  columns = [cells[~np.isnan(cells)] for cells in rows.T]
  draws = [rng.choice(x, count) if len(x) else np.full(count, np.nan) for x in columns]
  return np.stack(draws, axis=1)


def smote(rows: np.ndarray, sizes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
  """Draws by SMOTE from at most MOST_ROWS rows, whose missing cells are drawn independently.

  A number is the nearest that rows have where these repeat.
  """
  rng = np.random.default_rng(seed)
  rows = rows[some_of(rows, MOST_ROWS)]
  rows = np.where(np.isnan(rows), independent(rows, len(rows), seed), rows)
  near, base = neighbours(rows, sizes), rng.integers(0, len(rows), count)
  which, ties = rng.integers(0, near.shape[1], count), rng.random((count, near.shape[1]))
  drawn = interpolated(rows, sizes, near[base], (base, which, rng.random(count)), ties)
  for i in np.flatnonzero((sizes == 0) & ~np.isnan(rows).all(axis=0)):
    knots, own_shares = map(np.array, quantiles.fitted(rows[:, i]))
    if len(own_shares):
      drawn[:, i] = knots[np.searchsorted((knots[1:] + knots[:-1]) / 2, drawn[:, i])]
  return drawn


def neighbours(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the indices of the NEIGHBOURS nearest other rows of each, by `features`; [N, K].

  K is smaller if there are fewer rows, and a row that is alone is its own.
  """
  from sklearn.neighbors import NearestNeighbors

  if len(rows) == 1:
    return np.zeros((1, 1), int)
  count = min(NEIGHBOURS, len(rows) - 1)
  search = NearestNeighbors(n_neighbors=count, algorithm='brute').fit(features(rows, rows, sizes))
  return search.kneighbors(return_distance=False)


def interpolated(
  rows: np.ndarray,
  sizes: np.ndarray,
  near: np.ndarray,
  draws: tuple[np.ndarray, np.ndarray, np.ndarray],
  ties: np.ndarray,
) -> np.ndarray:
  """Returns rows that are moved towards one of their neighbours, [n, C].

  near: the neighbours of each, [n, K]; draws: which row, which neighbour, and the part of the way,
  [n] each. A category is the commonest among the neighbours, of equals by the larger of ties
  [n, K] < 1.
  """
  base, which, step = draws
  start, end = rows[base], rows[near[np.arange(len(base)), which]]
  drawn = start + step[:, None] * (end - start)
  for i in np.flatnonzero(sizes):
    cells = rows[near, i]
    votes = (cells[:, :, None] == cells[:, None, :]).sum(axis=2) + ties
    drawn[:, i] = cells[np.arange(len(base)), votes.argmax(axis=1)]
  return drawn


def features(rows: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns rows as points, [N, F], whose distances are those of rows.

  The square of a distance is a sum over columns: 1 for two categories that differ (Chawla et al.
  2002, section 6.1), the square of the difference of two numbers in deviations of the reference,
  and half of 1 for a cell that only one of two rows has.
  """
  parts = []
  for i, size in enumerate(sizes.tolist()):
    cells = rows[:, i]
    missing = np.isnan(cells)
    if size:
      hot = np.zeros((len(rows), size))
      hot[np.flatnonzero(~missing), cells[~missing].astype(int)] = np.sqrt(0.5)
      parts.append(hot)
    else:
      known = reference[~np.isnan(reference[:, i]), i]
      mean, std = (known.mean(), known.std() or 1.0) if len(known) else (0.0, 1.0)
      z = np.where(missing, 0.0, (cells - mean) / std)
      parts.append(np.stack([z, np.sqrt(0.5) * missing], axis=1))
  return np.concatenate(parts, axis=1)


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
