"""Networks of discrete states."""

import jax
from flax import linen as nn

from diffusion_jax.networks.options import Checked
from diffusion_jax.ranges import Size

Array = jax.Array


class StateNetwork(Checked):
  """Computes logits of states: x [B, H, W, C] -> [B, H, W, C, num_outputs].

  x are integers 0..num_states-1, also sequences [B, N]. Each is embedded as
  `features` numbers, and `network` takes the embeddings of a pixel's channels.
  It is a `UNet`, a `DiT` (also for sequences) or similar with out_channels = C
  num_outputs. num_outputs: num_states for logits, 2 for mean and log scale
  (`logistic_network`).
  """

  network: nn.Module
  num_states: Size
  num_outputs: Size
  features: Size = 32

  @nn.compact
  def __call__(self, x: Array, noise: Array, cond: dict | None = None, *, train=False) -> Array:
    sides, c = (x.shape[1:], 1) if x.ndim == 2 else (x.shape[1:-1], x.shape[-1])
    channels = c * self.num_outputs
    if self.network.out_channels != channels:
      raise ValueError(
        f'out_channels={self.network.out_channels} of the network must be '
        f'{c} channels x {self.num_outputs} outputs = {channels}'
      )
    h = nn.Embed(self.num_states, self.features, name='embedding')(x)
    h = self.network(h.reshape(len(x), *sides, -1), noise, cond, train=train)
    return h.reshape(*x.shape, self.num_outputs)
