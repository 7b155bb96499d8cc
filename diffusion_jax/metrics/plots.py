"""Figures of arrays, written as PNG files."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.atomic_files import write_figure
from diffusion_jax.metrics.calibration import coverage


@contextlib.contextmanager
def _figure(path, count: int, columns: int = 3, size: tuple[float, float] = (4.0, 3.2)):
  # Yields the axes of `count` plots, each of a size in inches, and writes the
  # figure. pyplot would start a window system and keep global state.
  from matplotlib.figure import Figure

  columns = min(count, columns)
  rows = -(-count // columns)
  figure = Figure((size[0] * columns, size[1] * rows), dpi=110, layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for i, ax in enumerate(axes):
    ax.grid(alpha=0.3)
    ax.set_visible(i < count)
  yield axes
  write_figure(path, figure)


def plot_terms(path: str | Path, terms: np.ndarray) -> None:
  """Plots L_0, ..., L_{T-1} in bits/dim [T] by step, on logarithmic axes.

  The axis ends six decades below the largest term; smaller terms, such as
  1e-30, are marked at the bottom.
  """
  with _figure(path, 1, size=(6.4, 4.4)) as (ax,):
    steps = np.arange(1, len(terms) + 1)
    top = np.max(terms[np.isfinite(terms)], initial=1e-30)
    limit = 1e-6 * top
    small = ~(terms > limit)
    foot = np.min(terms[~small], initial=top) / 3.0
    marker = 'o' if len(steps) < 20 else None
    ax.loglog(steps, np.where(small, np.nan, terms), marker=marker)
    if small.any():
      at_foot = np.where(small, 1.2 * foot, np.nan)
      label = f'{small.sum()} below {limit:.1g}'
      ax.plot(steps, at_foot, 'v', color='grey', markersize=4, label=label)
      ax.legend(fontsize=8)
    ax.set(xlabel='step t', ylabel='$L_{t-1}$, bits/dim')
    ax.set_ylim(bottom=foot)
    total = f'{np.sum(terms):.4g} bits/dim'
    ax.set_title(f'terms of the bound, $L_0 + \\dots + L_{{T-1}}$ = {total}')
    ax.grid(alpha=0.3, which='both')


def plot_rate_distortion(path: str | Path, rate: np.ndarray, distortion: np.ndarray) -> None:
  """Plots Figure 5 of DDPM: rate [T], bits/dim, distortion [T] on 0..255."""
  with _figure(path, 3) as axes:
    steps = 'steps of the reverse process done, T - t', np.arange(len(rate))
    bits = 'rate, bits/dim', rate
    error = 'distortion, RMSE in levels of 0..255', distortion
    curves = (steps, error), (steps, bits), (bits, error)
    for ax, ((xlabel, x), (ylabel, y)) in zip(axes, curves, strict=True):
      ax.plot(x, y, marker='o' if len(rate) < 20 else None)
      ax.set(xlabel=xlabel, ylabel=ylabel)


def plot_accuracy(path: str | Path, times: np.ndarray, accuracy: np.ndarray, chance: float) -> None:
  """Plots the accuracy [N] of a classifier by the time [N] of the noise."""
  with _figure(path, 1) as (ax,):
    ax.plot(times, accuracy, marker='o')
    ax.axhline(chance, color='grey', linestyle='--', label='chance')
    ax.set(xlabel='t', ylabel='accuracy', ylim=(0.0, 1.02))
    ax.legend(fontsize=8)


def plot_sweep(path: str | Path, titles: Sequence[str], values: dict[str, np.ndarray]) -> None:
  """Plots a distance against accuracy, and precision against recall.

  values: the scores [N] of N points by name, which may end in the name of
  features, as precision_dinov2; the first is the distance. Without accuracy the
  distance is over the points.
  """
  curves = [('accuracy' if 'accuracy' in values else '', next(iter(values)))]
  precisions = [name for name in values if name.startswith('precision')][:1]
  curves += [(n.replace('precision', 'recall'), n) for n in precisions]
  order = {'': np.arange(len(titles), dtype=np.float64)}
  with _figure(path, len(curves), size=(4.5, 4.0)) as axes:
    for ax, (xlabel, ylabel) in zip(axes, curves, strict=False):
      x, y = (values | order)[xlabel], values[ylabel]
      ax.plot(x, y, marker='o')
      ax.set(xlabel=xlabel, ylabel=ylabel)
      ax.margins(x=0.3)  # leaves room for titles to the right of their points
      for title, *point in zip(titles, x, y, strict=True):
        ax.annotate(title, point, fontsize=7)


def plot_widths(
  path: str | Path,
  widths: Sequence[float],
  values: dict[str, np.ndarray],
  errors: dict[str, np.ndarray],
) -> None:
  """Plots each score [N] against the relative width [N] of an average.

  values, errors: by name; an error that is NaN or None is not drawn.
  """
  order = np.argsort(widths)
  x = np.asarray(widths)[order]
  with _figure(path, len(values)) as axes:
    for ax, (name, y) in zip(axes, values.items(), strict=False):
      error = np.nan_to_num(np.asarray(errors[name], np.float64))[order]
      ax.errorbar(x, y[order], error, marker='o', markersize=4, capsize=2)
      ax.set(xlabel='relative width of the average', ylabel=name)


def plot_ranks(path: str | Path, levels: np.ndarray, names: Sequence[str] = ()) -> None:
  """Plots a histogram of levels [M, D] for each parameter, at most twelve.

  levels: of `calibration.rank_levels`. The band contains 95 % of the counts of
  exact draws, at each bin by itself.
  """
  from scipy import stats

  count, bins = len(levels), 20
  shown = levels[:, :12]
  band = stats.binom.interval(0.95, count, 1.0 / bins)
  with _figure(path, shown.shape[1], 4) as axes:
    for i, (ax, column) in enumerate(zip(axes, shown.T, strict=False)):
      ax.axhspan(*band, color='grey', alpha=0.3)
      ax.hist(column, bins, range=(0.0, 1.0))
      name = names[i] if names else f'parameter {i}'
      ax.set(xlabel=f'level of {name}', ylabel='pairs', xlim=(0.0, 1.0))


def plot_coverage(path: str | Path, levels: dict[str, np.ndarray]) -> None:
  """Plots the expected coverage against the mass, a curve for each name.

  levels: [M] or [M, D] (one curve for each parameter) of `calibration`, of
  intervals, densities or balls. The band contains 95 % of exact draws' curves
  at each mass. A curve below the diagonal is over-confident.
  """
  mass = np.linspace(0.0, 1.0, 101)
  with _figure(path, 1, size=(4.6, 4.4)) as (ax,):
    for i, (name, each) in enumerate(levels.items()):
      found = coverage(each, mass)
      if not i:
        ax.fill_between(mass, found.low, found.high, color='grey', alpha=0.3)
      lines = ax.plot(mass, found.fraction, color=f'C{i}', linewidth=1)
      lines[0].set_label(name)
    ax.plot([0, 1], [0, 1], color='grey', linestyle='--')
    ax.set(xlabel='mass of the region', ylabel='fraction of truths in it')
    ax.legend(fontsize=8)


def plot_ratios(path: str | Path, ratios: np.ndarray) -> None:
  """Plots variances of draws over exact ones [M, D], the mean over M pairs by number."""
  with _figure(path, 1, size=(6.4, 3.6)) as (ax,):
    error = ratios.std(axis=0, ddof=1) / len(ratios) ** 0.5
    ax.axhline(1.0, color='black', linewidth=0.8)
    ax.errorbar(np.arange(ratios.shape[1]), ratios.mean(axis=0), 1.96 * error, fmt='.', capsize=2)
    ax.set(xlabel='number that is drawn', ylabel='variance / exact variance')
    ax.set_title('variance of the draws, with intervals of 95 %')


def plot_parts(path: str | Path, parts: Sequence[tuple[str, float, float]], unit: str) -> None:
  """Plots numbers that add up, (name, value, standard error) each, one upon another.

  A last bar is their sum.
  """
  with _figure(path, 1, size=(7.2, 0.8 + 0.42 * (1 + len(parts)))) as (ax,):
    names = [*(name for name, _, _ in parts), 'together']
    values = np.array([value for _, value, _ in parts])
    ends = np.cumsum(values)
    starts = np.concatenate([[0.0], ends[:-1]])
    colors = np.where(values < 0.0, 'tab:green', 'tab:red')
    place = np.arange(len(names))
    errors = np.nan_to_num([error for _, _, error in parts])
    ax.barh(place[:-1], values, left=starts, xerr=errors, color=colors, alpha=0.8, ecolor='black')
    ax.barh(place[-1], ends[-1], color='tab:blue', alpha=0.8)
    rows = [*zip(values, np.maximum(starts, ends) + errors, ends, strict=True)]
    for y, (value, right, end) in enumerate([*rows, (ends[-1], max(ends[-1], 0.0), ends[-1])]):
      ax.annotate(f' {value:.3g}', (right, y), va='center')
      ax.plot([end, end], [y, min(y + 1, len(values))], color='grey', linewidth=0.8)
    ax.set_yticks(place, names)
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.margins(x=0.15)
