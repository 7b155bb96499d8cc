"""Low-rank adapters of a trained network (LoRA, Hu et al. 2021).

Adapters are {'lora_A': tree, 'lora_B': tree}, trees with the paths of the
adapted kernels, so that an optimizer sees kernels. A [..., in, rank] and
B [..., rank, out] are the transposes of the paper's matrices.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import NamedParams, Params
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.ranges import Size
from diffusion_jax.training.objectives import Context, Objective

Array = jax.Array
A, B = 'lora_A', 'lora_B'
BASE = 'base'  # the frozen parameters of `lora_objective`


@checked
def lora_init(
  key: Key,
  params: NamedParams,
  rank: Size,
  convolutions: bool = False,
  stacked: Sequence[str] | None = None,
) -> Params:
  """Returns new adapters of a network: A is normal, of variance 1 / in; B is 0.

  params: of the network, or their shapes. Kernels [in, out] of dense layers and
  attention have an adapter, stacks of them [blocks, in, out] one for each
  block; with `convolutions` also kernels of convolutions, such as [h, w, in, out], where
  A is [h, w, in, rank]. stacked: a network's `stacked` (`scale_by_muon`); None: all kernels
  of three axes are stacks, and none is a convolution of one axis. Raises ValueError for a
  rank below 1, and if the network has no such kernel.
  """

  def is_stack(names, shape):
    begin = tuple(stacked or ())
    return len(shape) == 3 and (stacked is None or any(name.startswith(begin) for name in names))

  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  named = [(jax.tree_util.keystr(path, simple=True, separator='/'), x) for path, x in leaves]
  adapted = [
    (name.split('/'), kernel.shape)
    for name, kernel in named
    if name.endswith('/kernel')
    and (convolutions or len(kernel.shape) == 2 or is_stack(name.split('/'), kernel.shape))
  ]
  if not adapted:
    raise ValueError('the network has no kernel of a dense layer to adapt')
  adapters: Params = {A: {}, B: {}}
  keys = jax.random.split(key, len(adapted))
  for draw, (names, (*inputs, out)) in zip(keys, adapted, strict=True):
    stack = inputs[:1] if is_stack(names, (*inputs, out)) else []
    deviation = math.prod(inputs[len(stack) :]) ** -0.5
    down, up = adapters[A], adapters[B]
    for name in names[:-1]:
      down, up = down.setdefault(name, {}), up.setdefault(name, {})
    down['kernel'] = deviation * jax.random.normal(draw, (*inputs, rank))
    up['kernel'] = jnp.zeros((*stack, rank, out))
  return adapters


def lora_merge(params: NamedParams, adapters: NamedParams, scale: float) -> Params:
  """Returns a network's parameters with kernels W + scale A B.

  Hu et al. 2021, eq. 3, where scale is alpha / rank.
  """

  def merged(ours, down, up):
    if not isinstance(down, Mapping):
      return ours + scale * jnp.matmul(down, up, precision='highest')
    return {**ours, **{n: merged(ours[n], down[n], up[n]) for n in down}}

  return merged(params, adapters[A], adapters[B])


def merge_network(base: Params, params: Params, scale: float) -> Params:
  """Returns `base` with the adapters of params['network'] merged."""
  network = lora_merge(base['network'], params['network'], scale)
  return {**base, 'network': network}


def lora_objective(objective: Objective, scale: float) -> Objective:
  """Returns the objective of {'network': adapters}.

  The network that they adapt is context.frozen['base']. Nothing constrains the
  adapters.
  """

  def merged(params, context):
    return merge_network(context.frozen[BASE], params, scale)

  def within(context: Context) -> Context:
    return context._replace(ema_params=merged(context.ema_params, context))

  return dataclasses.replace(
    objective,
    draw=lambda key, batch, context: objective.draw(key, batch, within(context)),
    loss=lambda params, context, inputs, keys: objective.loss(
      merged(params, context), within(context), inputs, keys
    ),
    constrain=lambda params: params,
  )
