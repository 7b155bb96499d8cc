"""The programs that draw samples."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusion_jax.app.drawing.generate import ATTEMPTS, FEW, generate, in_box
from diffusion_jax.app.inputs.conditions import Conditions
from diffusion_jax.app.model import make_mesh
from diffusion_jax.data.sources import Facts
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.errors import UserError
from tests.app.models.test_diffusion import model_of


def test_more_levels_than_steps_are_noted_before_they_are_visited(capsys):
  model = model_of(**{'sampling.num_steps': 5000})
  generate(model, make_mesh(model.config))
  said = capsys.readouterr().out
  assert 'note: sampling.num_steps=5000 is more than the 1,000 steps' in said
  assert ': 1,000 distinct steps are visited, and 4,000 levels between' in said
  model = model_of(**{'sampling.num_steps': 1000})
  generate(model, make_mesh(model.config))
  assert not capsys.readouterr().out


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
