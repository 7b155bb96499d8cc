"""Flax modules as functions of their parameters."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.declared import declared_by
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.networks.context import ContextCode
from diffusion_jax.networks.options import Checked


def network_fn(module: nn.Module) -> Callable[..., PyTree]:
  """Returns (params, x, noise, cond, *, key=None, at=None) -> the module's output.

  The module is called as `UNet` is: module(x, noise, cond, train=...). key: the
  key of dropout, which is off without one. at: of a hidden layer, for a module that takes it
  and then returns (output, hidden); ValueError for others. The output is split over a mesh as x
  is along its first axis, also by Explicit axes (`jax.make_mesh`'s).
  """

  def apply(params, x, noise, cond, /, *, key=None, at=None) -> PyTree:
    more = {} if at is None else {'at': at}
    if more and 'at' not in inspect.signature(_called(module)).parameters:
      raise ValueError(f'{_called(module).__qualname__} takes no `at`, as DiT, UNet and MLP do')

    @on_auto_axes
    def run(x, params, noise, cond, key):
      rngs = {} if key is None else {'dropout': key}
      train = key is not None
      return module.apply({'params': params}, x, noise, cond, train=train, rngs=rngs, **more)

    return run(x, params, noise, cond, key)

  return apply


def _called(module):
  # Returns the __call__ of a module, also of `from_nnx`.
  return getattr(module, 'nnx_class', type(module)).__call__


def without_key(apply: Callable[..., PyTree]) -> Callable[..., PyTree]:
  """Returns a function of `network_fn` that takes a key and ignores it, so it has no dropout."""

  @functools.wraps(apply)
  def applied(params, x, noise, cond, /, *, key=None, **more) -> PyTree:
    return apply(params, x, noise, cond, **more)

  return applied


def encode_context(module: nn.Module, params: Params, cond: dict, shape: Sequence[int]) -> dict:
  """Returns cond with 'context_code' in place of 'context', both [B, ...].

  The network's output is the same. Sampling thus encodes a context once, and
  not at every step of every draw: the rows of the code are repeated for the
  draws. shape: of one x. A cond without a context, or of a network of the user,
  is returned as it is.
  """
  if not isinstance(module, Checked) or 'context' not in {*cond} & {*params}:
    return cond
  network: Any = module
  weights = params['context']
  # 'words' and 'channels' have no layer as wide as the noise's embedding.
  features = weights['dense_out']['bias'].size if 'dense_out' in weights else 1
  encoder = ContextCode(
    network.inputs.context_kind(shape[:-1]),
    network.inputs.context_encoder,
    features,
    dtype=network.dtype,
  )
  code = encoder.apply({'params': weights}, {'context': cond['context']}, tuple(shape))
  rest = {name: value for name, value in cond.items() if name != 'context'}
  return rest | {'context_code': code}


@functools.cache
def from_nnx(constructor: type[nnx.Module]) -> Callable[..., nn.Module]:
  """Returns a constructor of Linen modules for a class of NNX modules.

  It has the parameters of the class without `rngs`.
  """
  signature = inspect.signature(constructor.__init__, eval_str=True)
  _, *own = signature.parameters.values()
  own = [p for p in own if p.name != 'rngs']

  @functools.wraps(constructor, updated=())
  def make(**fields) -> nn.Module:
    return nnx.bridge.ToLinen(constructor, kwargs=fields, metadata_fn=None)

  make.__signature__ = signature.replace(parameters=own)  # pyright: ignore
  make.takes = getattr(constructor, 'takes', ())  # pyright: ignore
  make.declared = declared_by(constructor)  # pyright: ignore
  return make


def clone(module: nn.Module, **fields: Any) -> nn.Module:
  """Returns a module, also of `from_nnx`, with other values of its fields."""
  if isinstance(module, nnx.bridge.ToLinen):
    return module.clone(kwargs={**module.kwargs, **fields})
  return module.clone(**fields)


def hidden_and_output(module: nn.Module) -> Callable[..., jax.Array]:
  """Returns `network_fn` of a classifier with its hidden layer: [B, D + K].

  The module sows one array 'hidden' [B, D], and its output is [B, K]. Raises
  ValueError for a module that sows none.
  """

  def apply(params, x, noise, cond, /, *, key=None) -> jax.Array:
    variables = {'params': params}
    output, sown = module.apply(variables, x, noise, cond, mutable=['hidden'])
    hidden = jax.tree.leaves(sown)
    if len(hidden) != 1:
      raise ValueError(
        f'{type(module).__name__} has no layer of features: its input of the '
        "last layer must be sown once, self.sow('hidden', 'features', h)"
      )
    return jnp.concatenate([*hidden, output], axis=-1)

  return apply
