"""Rows of tables that only `pytest -m slow` runs, and arrays for tests."""

import functools

import numpy as np
import pytest

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def normal(*shape, seed=0):
  """Draws standard normal numbers in float32, without a program of JAX."""
  return np.random.default_rng(seed).standard_normal(shape, np.float32)
