"""Networks of an example and its label, which estimate both."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.layers import Dense
from diffusion_jax.networks.options import Checked
from diffusion_jax.ranges import Size

Array = jax.Array


class LabelledNetwork(Checked):
  """Computes outputs of an example and its label: {'x': [B, ..., C], 'label': int [B]}.

  The label is 0..num_classes - 1, or the masked state num_classes, which `network` gets as its
  null class. The state says all: given it the best estimates do not depend on its level, and
  noise['label'] is not read. `network` takes (x, noise['x'], {'label', 'drop'}), and has C +
  features channels: the last ones go to the head of the label, whose logits [B, num_classes +
  1] are of the mean over the positions.
  """

  network: nn.Module
  num_classes: Size
  features: Size = 32

  @nn.compact
  def __call__(
    self, x: dict, noise: dict, cond: dict | None = None, *, train: bool = False
  ) -> dict[str, Array]:
    state, channels = x['label'], x['x'].shape[-1]
    is_masked = state == self.num_classes
    seen = {'label': jnp.where(is_masked, 0, state), 'drop': is_masked}
    h = self.network(x['x'], noise['x'], seen, train=train).astype(jnp.float32)
    own = nn.silu(h[..., channels:])
    own = own.reshape(len(own), -1, self.features).mean(axis=1)
    own = nn.silu(Dense(4 * self.features, name='label_in')(own))
    logits = Dense(self.num_classes + 1, name='label_out')(own)
    return {'x': h[..., :channels], 'label': logits}
