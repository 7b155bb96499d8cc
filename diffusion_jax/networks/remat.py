"""Blocks that the backward pass recomputes, to save memory."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import linen as nn

from diffusion_jax.networks.options import RematPolicy

Block = TypeVar('Block', bound=type[nn.Module])


def _products(primitive, *args, **params):
  # Stores the results of convolutions and products with weights. The products
  # of attention have batch axes and are recomputed, because scores are large.
  with_weights = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return primitive.name in ('conv2d', 'convolve', 'linear') or with_weights(
    primitive, *args, **params
  )


POLICIES: dict[RematPolicy, Callable[..., bool] | None] = {
  'nothing': None,
  'products': _products,
}


def maybe_remat(block: Block, network: Any, **options: Any) -> Block:
  """Returns the block, which the backward pass recomputes with network.remat.

  Only its inputs are stored. With network.remat_policy 'products' the results
  of convolutions and products with weights are stored too. The block's results
  do not change. options: further arguments of `nn.remat`.
  """
  if not getattr(network, 'remat', False):
    return block
  return nn.remat(block, policy=POLICIES[network.remat_policy], **options)
