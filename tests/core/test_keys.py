import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.core.keys import draw_normal, key_per_example, split_key


def test_noise_of_a_key_is_the_same_bit_for_bit_in_any_batch(key):
  keys = jax.random.split(key, 8)
  whole = draw_normal(keys, jnp.zeros((8, 4, 4, 3)))
  for i in (0, 3, 7):
    alone = draw_normal(keys[i : i + 1], jnp.zeros((1, 4, 4, 3)))
    np.testing.assert_array_equal(alone[0], whole[i])
  later = split_key(keys, 5)
  assert later.shape == (5, 8)
  np.testing.assert_array_equal(
    jax.random.key_data(split_key(keys[3:4], 5)[:, 0]),
    jax.random.key_data(later[:, 3]),
  )


def test_keys_of_either_style():
  old, new = jax.random.PRNGKey(3), jax.random.key(3)
  x = jnp.zeros((4, 2))
  np.testing.assert_array_equal(draw_normal(old, x), draw_normal(new, x))
  olds = jax.random.split(old, 4)
  news = jax.random.split(new, 4)
  np.testing.assert_array_equal(draw_normal(olds, x), draw_normal(news, x))


def test_a_wrong_number_of_keys_is_refused(key):
  with pytest.raises(ValueError, match=r'\[3\] keys for a batch of 4'):
    draw_normal(jax.random.split(key, 3), jnp.zeros((4, 2)))


def test_one_key_becomes_one_per_example(key):
  keys = key_per_example(key, 4)
  assert keys.shape == (4,)
  assert len(np.unique(jax.random.key_data(keys), axis=0)) == 4
  assert key_per_example(keys, 4) is keys
  assert key_per_example(jax.random.PRNGKey(0), 4).shape == (4,)
  with pytest.raises(ValueError, match=r'\[4\] keys for a batch of 3'):
    key_per_example(keys, 3)
