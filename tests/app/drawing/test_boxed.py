"""Draws within the box of data.bounds."""

import types
from typing import Any

import numpy as np

from diffusion_jax.app.drawing import boxed
from diffusion_jax.data.sources import Facts
from diffusion_jax.data.spec import ArraySpec


def test_draws_again_have_keys_of_their_own():
  """No attempt at a sample has the key of another sample or attempt."""
  values, seen = ArraySpec((1,), low=(0.0,), high=(1.0,)), []
  model: Any = types.SimpleNamespace(facts=Facts(values))
  index, x = np.arange(4, 12), np.full((8, 1), 2.0)

  def draw(i, key):
    seen.extend(key.tolist())
    inside = i % 4 < len(seen) // 9  # some at the second or third attempt
    return np.where(inside, i / 100.0, 2.0)[:, None]

  samples, _ = boxed._within(model, x, index, draw, boxed.ATTEMPTS)
  np.testing.assert_array_equal(samples[:, 0], index / 100.0)
  assert len({*seen, *range(20)}) == len(seen) + 20
