"""The averages of the parameters that a training keeps, and their names."""

import jax.numpy as jnp
import numpy as np

from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.training import optimizer, power_ema
from diffusion_jax.training.optimizer import EmaRate

Rates = tuple[EmaRate, dict[str, EmaRate]]


def rates(config: Node, more_steps: float = 0.0) -> Rates:
  """Returns (rate of the main average, {name: rate} of the other averages).

  A rate is step -> 1 - decay. more_steps: see `optimizer.ema_power`.
  """
  c = config.training
  with from_config('training'):
    more = {
      power_ema.decay_name(decay): optimizer.ema_decay(decay, c.ema_warmup)
      for decay in c.more_ema_decays
    } | {
      power_ema.width_name(sigma_rel): optimizer.ema_power(
        sigma_rel, more_steps
      )
      for sigma_rel in c.ema_sigma_rels
    }
    if c.ema_half_life is None:
      return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
    half_life = c.ema_half_life
    return optimizer.ema_half_life(half_life, c.batch_size, c.ema_rampup), more


def warning(config: Node) -> str:
  """Returns a line if the average will keep a tenth of its start, or ''."""
  c = config.training
  if c.ema_warmup and c.ema_half_life is None:
    return ''
  later = rates(config)[0](jnp.arange(1, c.num_steps))
  weight = np.prod(1.0 - np.asarray(later, np.float64))
  if weight <= 0.1:
    return ''
  return (
    f'after {c.num_steps} steps the average of the parameters, which previews '
    f'and test losses use, will still be {weight:.0%} the first ones: shorten '
    'it by training.ema_warmup=true or a smaller ema_decay or ema_half_life'
  )
