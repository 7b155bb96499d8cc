"""No two streams of a seed share a key, and each is as its tag says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.core.keys import fold_each, split_key
from diffusion_jax.runtime.streams import STREAMS, stream


def descendants(root):
  """Returns root and its descendants, three levels deep."""
  first = fold_each(root, jnp.arange(4))  # images, steps
  second = split_key(first, 8).ravel()
  third = split_key(second, 4).ravel()
  return jnp.concatenate([root[None], first, second, third])


def test_no_two_consumers_of_a_seed_share_a_key():
  """Equal keys would draw equal numbers; the seed's own key counts too."""
  roots = [jax.random.key(0), *(stream(0, name) for name in STREAMS)]
  keys = jax.jit(jax.vmap(descendants))(jnp.stack(roots)).ravel()
  drawn = np.asarray(jax.vmap(lambda k: jax.random.bits(k, (2,)))(keys))
  assert len(drawn) == len(roots) * (1 + 4 + 32 + 128)
  assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_a_stream_is_its_tag_folded_into_the_key_of_the_seed():
  found = jax.random.key_data(stream(7, 'training'))
  expected = jax.random.fold_in(jax.random.key(7), 0xD5128A8F)
  assert_array_equal(found, jax.random.key_data(expected))
  with pytest.raises(KeyError):
    stream(7, 'drawing')
