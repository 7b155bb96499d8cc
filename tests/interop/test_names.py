"""A table of names puts each number where Flax has it, and names what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.interop import names
from diffusion_jax.interop.names import KERNEL, SAME, Entry

TABLE = [
  Entry('dense/kernel', 'fc.weight', KERNEL),
  Entry('dense/bias', 'fc.bias', SAME),
  Entry('conv/kernel', 'conv.weight', KERNEL),
]
SHAPES = jax.eval_shape(
  lambda: {
    'dense': {'kernel': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)},
    'conv': {'kernel': jnp.zeros((5, 4, 3, 2))},
  }
)


def tensors():
  """PyTorch's layouts: Linear [out, in], Conv2d [out, in, height, width]."""
  rng = np.random.default_rng(0)
  shapes = {'fc.weight': (2, 3), 'fc.bias': (2,), 'conv.weight': (2, 3, 5, 4)}
  return {name: rng.random(s, np.float32) for name, s in shapes.items()}


def test_every_number_is_where_flax_has_it():
  theirs = tensors()
  found = names.read(TABLE, theirs, SHAPES)
  w, k = found['dense']['kernel'], found['conv']['kernel']
  assert w.shape == (3, 2) and w[2, 1] == theirs['fc.weight'][1, 2]
  assert k.shape == (5, 4, 3, 2)
  assert k[4, 3, 2, 1] == theirs['conv.weight'][1, 2, 4, 3]
  back = names.write(TABLE, found)
  assert list(back) == [entry.theirs for entry in TABLE]
  jax.tree.map(assert_array_equal, back, theirs)


def test_a_convolution_of_one_pixel_is_read_as_a_linear_layer():
  theirs = tensors()
  expected = names.read(TABLE, theirs, SHAPES)
  theirs['fc.weight'] = theirs['fc.weight'][:, :, None, None]
  jax.tree.map(assert_array_equal, names.read(TABLE, theirs, SHAPES), expected)


def test_tensors_that_no_row_of_the_table_names():
  given = tensors()
  del given['conv.weight']
  for error in (
    lambda: names.read(TABLE[:2], given, SHAPES),
    lambda: names.write(TABLE[:2], SHAPES),
  ):
    with pytest.raises(ValueError, match='not in the table .*: conv/kernel'):
      error()
  given = tensors() | {'step': np.zeros(())}
  names.read(TABLE, given, SHAPES, ignored=lambda name: name == 'step')


def test_long_lists_are_cut():
  assert names.listed('abc') == 'a, b, c'
  assert names.listed('abcdefghijklm') == 'a, b, c, d, e, f, g, h, i, j and 3 more'
