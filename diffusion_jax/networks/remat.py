"""What the blocks of a network store for the backward pass."""

from typing import Any

import jax
from flax import linen as nn

from diffusion_jax.networks.options import RematPolicy


def _products(primitive, *args, **params):
  # Stores the results of convolutions and products with weights. The products
  # of attention, which have batch axes, are computed again: scores are large.
  with_weights = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return primitive.name in ('conv2d', 'linear') or with_weights(
    primitive, *args, **params
  )


POLICIES: dict[RematPolicy, Any] = {'nothing': None, 'products': _products}


def maybe_remat(block: Any, network: Any, **options: Any) -> Any:
  """Returns the block, computed again in the backward pass with network.remat.

  Its inputs are stored, and with network.remat_policy 'products' the results of
  its convolutions and products with weights, which are not computed again.
  Results are the same. options: those of `nn.remat`.
  """
  if not getattr(network, 'remat', False):
    return block
  return nn.remat(block, policy=POLICIES[network.remat_policy], **options)
