"""Random keys: one for a batch, or one per example ([B]).

With one key per example, the draw for example i depends only on its own key,
not on the batch size or the number of devices. `as_one_key` makes one key of
them for code that knows `jax.random` only.
"""

import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jax.typing import ArrayLike

from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.checked import A_KEY, Key, is_key
from diffusion_jax.meshes import on_auto_axes, placed_as, whole_on_each

Array = jax.Array


def fold_each(key: Key, index: ArrayLike) -> Array:
  """Folds an index, [] or [B], into a key, [] or [B], of which one is [B]; returns keys [B]."""
  key, index = _typed(key), jnp.asarray(index)
  axes = tuple(0 if x.ndim else None for x in (key, index))
  return jax.vmap(jax.random.fold_in, axes)(key, index)


def abstract_key() -> jax.ShapeDtypeStruct:
  """Returns the shape of a key, for `jax.eval_shape`."""
  return jax.eval_shape(jax.random.key, 0)


def as_one_key(key: Key) -> Array:
  """Returns keys [B] as one key, with which row i of a draw is from key i.

  `jax.random` takes it for draws of [B, ...], such as normal(key, x.shape).
  Another shape, [] included, raises ValueError when it is compiled. One key
  stays as it is.
  """
  key = _typed(key)
  if not key.ndim:
    return key
  impl = _impl_of_rows(jax.random.key_impl(key), *key.shape)
  return jax.random.wrap_key_data(jax.random.key_data(key), impl=impl)


_ROWS: dict[Hashable, Hashable] = {}  # the implementation of a row


@functools.cache
def _impl_of_rows(impl: Hashable, count: int) -> Hashable:
  # `count` keys as one key: each operation acts on every row.
  def of_rows(operation):
    def of_data(data, *args):
      keys = jax.random.wrap_key_data(data, impl=impl)
      return jax.vmap(lambda key: operation(key, *args))(keys)

    return of_data

  @of_rows
  def fold_in(key, i):
    return jax.random.key_data(jax.random.fold_in(key, i))

  @of_rows
  def each_split(key, shape):
    return jax.random.key_data(jax.random.split(key, shape))

  @of_rows
  def bits(key, bit_width, shape):
    return jax.random.bits(key, shape[1:], f'uint{bit_width}')

  def split(data, shape):
    return jnp.moveaxis(each_split(data, shape), 0, len(shape))

  def random_bits(data, bit_width, shape):
    if shape[:1] != (count,):
      raise ValueError(
        f'random numbers of the shape {list(shape)} cannot be drawn for each '
        f'of {count} images: draw arrays [B, ...], as x.shape or x.shape[:1]'
      )
    return bits(data, bit_width, shape)

  def seed(number):
    return jax.random.key_data(jax.random.split(jax.random.key(number, impl=impl), count))

  like = jax.eval_shape(seed, 0)
  rows = define_prng_impl(
    key_shape=like.shape,
    seed=seed,
    split=split,
    random_bits=random_bits,
    fold_in=fold_in,
    name=f'{count} of {impl}',
    tag=f'{count}',
  )
  _ROWS[rows] = impl
  return rows


def _rows(key: Key) -> Array:
  # The keys [B] of `as_one_key`, or any other key as it is.
  impl = _ROWS.get(jax.random.key_impl(key))
  if impl is None:
    return key
  return jax.random.wrap_key_data(jax.random.key_data(key), impl=impl)


def split_key(key: Key, n: int) -> Array:
  """Splits one key into n keys [n], or keys [B] into n keys each, [n, B]."""
  key = _typed(key)
  if not key.ndim:
    return jax.random.split(key, n)
  # Numbers are transposed: jax_debug_key_reuse takes a transposed array of keys for used.
  keys = jax.vmap(lambda k: jax.random.split(k, n))(key)
  numbers = jnp.swapaxes(jax.random.key_data(keys), 0, 1)
  return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(key))


def repeat_key(key: Key, n: int) -> Array:
  """Repeats one key [] or keys [B] n times, [n] or [n, B]."""
  key = _typed(key)
  return jnp.broadcast_to(key, (n, *key.shape))


def clone_key(key: Key) -> Array:
  """Returns the same key for another use, which jax_debug_key_reuse allows."""
  return jax.random.clone(_typed(key))


def draw_normal(key: Key, x: Array) -> Array:
  """Draws standard normal noise in the shape of x [B, ...].

  With keys [B], example i depends only on key i and x.shape[1:]. Any other
  number of keys raises ValueError.
  """
  return _draw(jax.random.normal, key, x)


def draw_uniform(key: Key, x: Array) -> Array:
  """Draws from U[0, 1) in the shape of x [B, ...]; keys as in `draw_normal`."""
  return _draw(jax.random.uniform, key, x)


def draw_signs(key: Key, x: Array) -> Array:
  """Draws -1 or 1 in the shape of x [B, ...]; keys as in `draw_normal`."""
  return _draw(jax.random.rademacher, key, x)


def draw_index(key: Key, log_weights: Array) -> Array:
  """Draws k with the probability softmax(log_weights)[k], int [B].

  log_weights: [B, K]; keys as in `key_per_example`.
  """
  return _index(log_weights, key_per_example(key, len(log_weights)))


@on_auto_axes
def _index(log_weights, keys):
  return jax.vmap(jax.random.categorical)(keys, log_weights)


def key_per_example(key: Key, batch_size: int) -> Array:
  """Returns keys [B]: the given keys, or one key split into batch_size keys.

  Any other number of keys raises ValueError.
  """
  key = _rows(_typed(key))
  if not key.ndim:
    return jax.random.split(key, batch_size)
  _check_one_each(key, batch_size)
  return key


def _draw(distribution: Callable[..., Array], key: Key, x: Array) -> Array:
  key = _rows(_typed(key))
  if not key.ndim:
    return placed_as(x, distribution(key, x.shape, x.dtype))
  _check_one_each(key, x.shape[0])
  return placed_as(x, jax.vmap(lambda k: distribution(k, x.shape[1:], x.dtype))(key))


def _check_one_each(key, batch_size):
  if key.shape != (batch_size,):
    raise ValueError(
      f'{list(key.shape)} keys for a batch of {batch_size}: give one key, or one per example'
    )


def _typed(key: Key) -> Array:
  if not is_key(key):
    raise TypeError(f'key must be {A_KEY}, not {kind_of(key)}')
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return whole_on_each(key)  # Keys are small, and JAX has few operations of split ones.
  return jax.random.wrap_key_data(key)
