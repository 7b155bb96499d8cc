"""Samples in the user's units, within the box of data.bounds."""

from collections.abc import Callable

import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.per_example import rows

ATTEMPTS = 500  # at a draw within the box
FEW = 10  # of a model that may still be far from it
_APART = 2**22  # between the indices of the attempts at a sample


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

  drawing: the function of `generate_film`, which draws these again; index: of
  the samples [n]; x: the first draw [n, ...]. After ATTEMPTS outside a sample
  raises UserError, after fewer `attempts` it stays outside.
  """

  def decode(index, x):
    x = model.facts.x.decode(x)
    return conditions.with_known(model, inputs, index, x)

  def again(index, key):
    return decode(index, drawing(params, key, rows(inputs.cond, index))[0])

  return _within(model, decode(index, x), index, again, attempts)


def _within(model, samples, index, draw, attempts):
  # draw: (index [n], index of the keys [n]) -> samples [n, ...].
  values, outside, tried = model.facts.x, 0, 1
  bad = np.flatnonzero(~values.inside(samples))
  while len(bad):
    outside += len(bad)
    if tried >= attempts:
      if attempts < ATTEMPTS:
        break
      raise UserError(
        f'sample {index[bad[0]]}: {ATTEMPTS} draws in a row were outside '
        'data.bounds, the box of this run: train longer, or train a new run '
        'with wider data.bounds'
      )
    # Each gets several attempts, to fill the batch; the first inside counts.
    each = min(max(1, len(samples) // len(bad)), attempts - tried)
    again = bad.repeat(each)
    attempt = np.tile(tried + np.arange(each), len(bad))
    drawn = draw(index[again], index[again] + _APART * attempt)
    inside = values.inside(drawn).reshape(-1, each)
    done = inside.any(axis=1)
    first = np.where(done, inside.argmax(axis=1), each - 1)
    outside += int(first.sum())
    place = np.arange(len(bad)) * each + first
    samples[bad[done]] = drawn[place[done]]
    tried += each
    bad = bad[~done]
  return samples, outside
