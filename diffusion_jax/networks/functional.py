"""Flax modules as functions of their parameters."""

from collections.abc import Callable

from flax import linen as nn

from diffusion_jax.aliases import PyTree


def network_fn(module: nn.Module) -> Callable[..., PyTree]:
  """Returns (params, x, noise, cond, *, key=None) -> the module's output.

  The module is called as `UNet` is: module(x, noise, cond, train=...). key: the
  key of dropout, which is off without one.
  """

  def apply(params, x, noise, cond, /, *, key=None) -> PyTree:
    rngs = {} if key is None else {'dropout': key}
    train = key is not None
    return module.apply(
      {'params': params}, x, noise, cond, train=train, rngs=rngs
    )

  return apply
