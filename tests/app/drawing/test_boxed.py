"""Samples within the box of data.bounds."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusion_jax.app.drawing.boxed import ATTEMPTS, FEW, in_box
from diffusion_jax.app.inputs.conditions import Conditions
from diffusion_jax.data.sources import Facts
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.errors import UserError


def test_a_sample_always_outside_is_an_error_after_many_attempts():
  """Each sample has its own condition; a drawing for a look stays outside."""
  spec = ArraySpec((1,), mean=(0.0,), std=(2.0,), low=(0.0,), high=(1.0,))
  model: Any = SimpleNamespace(facts=Facts(spec))
  cond = {'x': np.array([[0.25], [9.0], [0.5]], np.float32)}
  inputs = Conditions(cond, {}, np.arange(3))

  def drawing(params, key, cond):
    return params + cond['x'], None

  index, x = np.array([0, 1]), np.array([[9.0], [9.0]], np.float32)
  params: Any = 0.0
  samples, outside = in_box(model, inputs, drawing, params, index, x, FEW)
  np.testing.assert_array_equal(samples, [[0.5], [18.0]])
  assert outside == 1 + FEW
  with pytest.raises(UserError, match=f'sample 1: {ATTEMPTS} draws'):
    in_box(model, inputs, drawing, params, index, x)
