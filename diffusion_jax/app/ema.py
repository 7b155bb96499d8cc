"""The averages of the parameters that a training keeps, and their names."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.app.config import from_config
from diffusion_jax.training import optimizer

_WIDTH = 'sigma_rel_'
Rates = tuple[Callable[[Any], Any], dict[str, Callable[[Any], Any]]]


def rates(config: ConfigDict, more_steps: float = 0.0) -> Rates:
  """Returns (rate of the average, {name: rate} of the others).

  A rate is step -> 1 - decay. more_steps: as of `optimizer.ema_power`.
  """
  c = config.training
  with from_config('training'):
    more = {
      decay_name(decay): optimizer.ema_decay(decay, c.ema_warmup)
      for decay in c.more_ema_decays
    } | {
      width_name(sigma_rel): optimizer.ema_power(sigma_rel, more_steps)
      for sigma_rel in c.ema_sigma_rels
    }
    if c.ema_half_life is None:
      return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
    half_life = c.ema_half_life
    return optimizer.ema_half_life(half_life, c.batch_size, c.ema_rampup), more


def decay_name(decay: float) -> str:
  """Returns the name of an average in checkpoints, such as '0.999'."""
  return f'{decay:g}'


def width_name(sigma_rel: float) -> str:
  """Returns the name of an average by a power of time: 'sigma_rel_0.05'."""
  return f'{_WIDTH}{float(sigma_rel)!r}'


def width_of(name: str) -> float | None:
  """Returns the width in the name of an average; None if it has none."""
  has_width = name.startswith(_WIDTH)
  return float(name.removeprefix(_WIDTH)) if has_width else None
