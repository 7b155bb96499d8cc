"""Random keys: one for a batch, or one per example ([B]).

With one key per example, what is drawn for example i depends on its own key
alone, whatever the batch size and the number of devices.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def split_key(key: Array, n: int) -> Array:
  """n new keys: [n] from one key, [n, B] from one key per example."""
  key = _typed(key)
  if not key.ndim:
    return jax.random.split(key, n)
  return jax.vmap(lambda k: jax.random.split(k, n), out_axes=1)(key)


def draw_normal(key: Array, x: Array) -> Array:
  """Standard normal noise like x [B, ...], from one key or one per example.

  With keys [B], example i is a function of key i and of x.shape[1:] alone.
  Raises ValueError if there are more or fewer keys than examples.
  """
  return _draw(jax.random.normal, key, x)


def draw_uniform(key: Array, x: Array) -> Array:
  """Uniform on [0, 1) like x [B, ...]; keys as in `draw_normal`."""
  return _draw(jax.random.uniform, key, x)


def draw_signs(key: Array, x: Array) -> Array:
  """-1 or 1 with equal chances, like x [B, ...]; keys as in `draw_normal`."""
  return _draw(jax.random.rademacher, key, x)


def key_per_example(key: Array, batch_size: int) -> Array:
  """[B] keys: those given, or one key split into as many.

  Raises ValueError if there are more or fewer keys than examples.
  """
  key = _typed(key)
  if not key.ndim:
    return jax.random.split(key, batch_size)
  _check_one_each(key, batch_size)
  return key


def _draw(distribution, key, x):
  key = _typed(key)
  if not key.ndim:
    return distribution(key, x.shape, x.dtype)
  _check_one_each(key, x.shape[0])
  return jax.vmap(lambda k: distribution(k, x.shape[1:], x.dtype))(key)


def _check_one_each(key, batch_size):
  if key.shape != (batch_size,):
    raise ValueError(
      f'{list(key.shape)} keys for a batch of {batch_size}: give one key, or '
      'one per example'
    )


def _typed(key: Array) -> Array:
  # keys of jax.random.PRNGKey are [..., 2] integers, without a shape of theirs
  dtype = getattr(key, 'dtype', None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return key
  if dtype != jnp.uint32:
    raise TypeError(
      'a random key is needed, such as jax.random.key(0), not '
      + (repr(key) if dtype is None else f'an array of {dtype}')
    )
  return jax.random.wrap_key_data(key)
