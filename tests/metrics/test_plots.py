"""Axes of the figures when matplotlib writes them."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.metrics import plots


@pytest.fixture
def axes(monkeypatch, tmp_path):
  saved = []
  save = Figure.savefig

  def savefig(figure, file, **options):
    save(figure, file, **options)
    saved.append(figure)

  monkeypatch.setattr(Figure, 'savefig', savefig)

  def draw(plot, *arrays):
    plot(tmp_path / 'a.png', *arrays)
    assert (tmp_path / 'a.png').stat().st_size > 1000
    return saved[-1].axes

  return draw


def test_one_term_of_nearly_nothing_does_not_flatten_the_others(axes):
  """Zero, nearly zero and NaN are marked at the bottom instead."""
  (ax,) = axes(plots.plot_terms, np.array([0.5, 0.0, 0.25, 1e-30, 0.1, np.nan]))
  low, high = ax.get_ylim()
  assert ax.get_yscale() == 'log' and 0.01 < low < 0.1 and 0.5 < high < 2.0
  curve, marks = (line.get_ydata() for line in ax.lines)
  assert_array_equal(curve, [0.5, np.nan, 0.25, np.nan, 0.1, np.nan])
  assert_array_equal(np.isnan(marks), ~np.isnan(curve))
  assert (marks[[1, 3, 5]] > low).all()
  assert ax.get_legend().get_texts()[0].get_text() == '3 below 5e-07'


def test_terms_within_six_decades_are_all_drawn(axes):
  terms = np.logspace(-5.9, 0, 50)
  (ax,) = axes(plots.plot_terms, terms)
  (curve,) = ax.lines
  assert_array_equal(curve.get_ydata(), terms)
  assert ax.get_ylim()[0] < terms[0] and ax.get_legend() is None
  axes(plots.plot_terms, np.zeros(3))  # an empty plot is drawn


def test_scores_are_drawn_against_the_width_in_its_order(axes):
  values = {name: np.array([3.0, 1.0, 2.0]) for name in 'abcd'}
  errors = {name: [0.1, None, 0.1] for name in 'abcd'}
  found = axes(plots.plot_widths, [0.1, 0.05, 0.2], values, errors)
  assert [ax.get_visible() for ax in found] == [True] * 4 + [False] * 2
  for ax, name in zip(found[:4], 'abcd', strict=True):
    assert ax.get_ylabel() == name and 'width' in ax.get_xlabel()
    line = ax.lines[0]
    assert_array_equal(line.get_xdata(), [0.05, 0.1, 0.2])
    assert_array_equal(line.get_ydata(), [1.0, 3.0, 2.0])


def test_ranks_have_a_histogram_for_each_parameter(axes):
  found = axes(plots.plot_ranks, np.random.default_rng(0).uniform(size=(400, 5)), list('abcde'))
  assert [ax.get_visible() for ax in found] == [True] * 5 + [False] * 3
  assert found[4].get_xlabel() == 'level of e'
  assert sum([patch.get_height() for patch in found[0].patches[-20:]]) == 400
  # 20 pairs a bin, and 1.96 times their deviation sqrt(20 * 0.95).
  low, high = found[0].patches[0].get_extents().intervaly
  edges = found[0].transData.inverted().transform([[0, low], [0, high]])[:, 1]
  assert_allclose(edges, [20 - 8.5, 20 + 8.5], atol=1.0)


def test_coverage_is_drawn_with_its_diagonal(axes):
  levels = (np.arange(200) + 0.5) / 200
  curves = {'narrow': levels**0.5, 'each': np.stack([levels, levels], axis=1)}
  (ax,) = axes(plots.plot_coverage, curves)
  narrow, first, second, diagonal = ax.lines
  mass = narrow.get_xdata()
  assert_allclose(narrow.get_ydata(), mass**2, atol=0.01)
  assert_allclose(first.get_ydata(), mass, atol=0.01)
  assert_array_equal(first.get_ydata(), second.get_ydata())
  texts = [text.get_text() for text in ax.get_legend().get_texts()]
  assert texts == ['narrow', 'each'] and diagonal.get_linestyle() == '--'
