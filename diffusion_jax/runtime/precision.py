"""The precision of products, in JAX's settings."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def products_at(name: str) -> Iterator[None]:
  """Traces programs with products of a precision, in all threads.

  name: 'default' keeps JAX's setting, JAX_DEFAULT_MATMUL_PRECISION included.
  """
  before = in_use()
  wanted = before if name == 'default' else name
  jax.config.update('jax_default_matmul_precision', wanted)
  try:
    yield
  finally:
    jax.config.update('jax_default_matmul_precision', before)


def in_use() -> str | None:
  """Returns JAX's setting; None is the fastest precision of the device."""
  return jax.config.values['jax_default_matmul_precision']
