"""The averages of the parameters that a training keeps, and their names."""

from ml_collections import ConfigDict

from diffusion_jax.app.config import from_config
from diffusion_jax.training import optimizer, power_ema
from diffusion_jax.training.optimizer import EmaRate

Rates = tuple[EmaRate, dict[str, EmaRate]]


def rates(config: ConfigDict, more_steps: float = 0.0) -> Rates:
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
