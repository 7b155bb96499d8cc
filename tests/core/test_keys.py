"""The noise of an example depends on its own key only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.core.keys import (
  as_one_key,
  draw_normal,
  fold_each,
  key_per_example,
  split_key,
)


def test_noise_of_a_key_is_the_same_bit_for_bit_in_any_batch(key):
  keys = jax.random.split(key, 8)
  draw = jax.jit(lambda keys: draw_normal(keys, jnp.zeros((len(keys), 4, 4, 3))))
  whole = np.asarray(draw(keys))
  for i in (0, 3, 7):
    alone = np.asarray(draw(keys[i : i + 1]))
    assert_array_equal(alone[0], whole[i])
  later = split_key(keys, 5)
  assert later.shape == (5, 8)
  assert_array_equal(
    jax.random.key_data(split_key(keys[3:4], 5)[:, 0]), jax.random.key_data(later[:, 3])
  )


@pytest.mark.parametrize('many', ['keys', 'indices', 'both'])
def test_an_index_is_folded_into_each_key(many, key):
  keys, index = jax.random.split(key, 3), np.array([5, 2, 7])
  expected = [
    jax.random.fold_in(key if many == 'indices' else keys[b], 5 if many == 'keys' else index[b])
    for b in range(3)
  ]
  found = fold_each(key if many == 'indices' else keys, 5 if many == 'keys' else index)
  assert_array_equal(jax.random.key_data(found), [jax.random.key_data(x) for x in expected])


def test_keys_of_either_style():
  old, new = jax.random.PRNGKey(3), jax.random.key(3)
  x = jnp.zeros((4, 2))
  assert_array_equal(draw_normal(old, x), draw_normal(new, x))
  olds = jax.random.split(old, 4)
  news = jax.random.split(new, 4)
  assert_array_equal(draw_normal(olds, x), draw_normal(news, x))


def test_one_key_becomes_one_per_example(key):
  keys = key_per_example(key, 4)
  assert keys.shape == (4,)
  assert len(np.unique(jax.random.key_data(keys), axis=0)) == 4
  assert key_per_example(keys, 4) is keys
  assert key_per_example(jax.random.PRNGKey(0), 4).shape == (4,)


def test_one_key_of_many_draws_row_i_from_key_i(key):
  """Draws of `jax.random` equal the same calls image by image."""
  keys, weights = jax.random.split(key, 4), jnp.zeros((4, 10))

  def numbers(key, rows, weights):
    first, second = jax.random.split(jax.random.fold_in(key, 7))
    third, fourth = jax.random.split(second, 5)[2:4]
    draws = (
      jax.random.normal(first, (*rows, 3)),
      jax.random.randint(third, rows, 0, 1000),
      jax.random.categorical(fourth, weights),
    )
    return draws + (draw_normal(first, draws[0]),)

  @jax.jit
  def both(keys):
    one = as_one_key(keys)
    assert not one.ndim and as_one_key(one) is one
    each = jax.vmap(lambda key, w: numbers(key, (), w)[:3])(keys, weights)
    return numbers(one, (4,), weights), each, key_per_example(one, 4)

  found, expected, again = both(keys)
  for a, b in zip(found, (*expected, expected[0]), strict=True):
    assert_array_equal(a, b)
  assert_array_equal(*map(jax.random.key_data, (again, keys)))
  for shape in ((), (3,), (5, 4)):
    with pytest.raises(ValueError, match=r'draw arrays \[B, ...\]'):
      jax.random.normal(as_one_key(keys), shape)
