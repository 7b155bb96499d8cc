"""Samples in the user's units, within the box of data.bounds."""

from collections.abc import Callable

import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.per_example import rows
from diffusion_jax.sampling.rejection import redraw_outside

ATTEMPTS = 500  # at a draw within the box
FEW = 10  # of a model that may still be far from it


def in_box(
  model: Model,
  inputs: conditions.Conditions,
  drawing: Callable[..., tuple],
  params: Params,
  index: np.ndarray,
  x: np.ndarray,
  attempts: int = ATTEMPTS,
) -> tuple[np.ndarray, int]:
  """Returns drawn x in the user's units, and how many draws were outside.

  drawing: the function of `generate`, which draws these again; index: of
  the samples [n]; x: the first draw [n, ...]. After ATTEMPTS outside a sample
  raises UserError, after fewer `attempts` it stays outside.
  """

  def decode(index, x):
    x = model.facts.x.decode(x)
    return conditions.with_known(model, inputs, index, x)

  def again(index, key):
    return decode(index, drawing(params, key, rows(inputs.cond, index))[0])

  inside = model.facts.x.inside
  samples, num_outside, left = redraw_outside(again, inside, decode(index, x), index, attempts)
  if len(left) and attempts >= ATTEMPTS:
    raise UserError(
      f'sample {index[left[0]]}: {ATTEMPTS} draws in a row were outside '
      'data.bounds, the box of this run: train longer, or train a new run '
      'with wider data.bounds'
    )
  return samples, num_outside
