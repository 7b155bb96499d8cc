"""Builds the optimizer, the averages and the mesh of a training."""

from diffusion_jax.build.make import choose, construct, from_config, renamed
from diffusion_jax.training import optimizer, sharding

_WIDTH = 'sigma_rel_'


def build_learning_rate(config):
  """Returns step -> learning rate of config.optimizer."""
  c = config.optimizer
  choose(optimizer.DECAYS, 'optimizer', 'decay', c.decay)
  schedule = renamed(optimizer.learning_rate_schedule, peak='learning_rate')
  return construct(schedule, c, 'optimizer')


def build_optimizer(config):
  """Returns the optax transformation of config.optimizer."""
  c = config.optimizer
  masks, field = optimizer.WEIGHT_DECAY_MASKS, 'weight_decay_mask'
  facts = {
    'learning_rate': lambda: build_learning_rate(config),
    field: lambda: choose(masks, 'optimizer', field, c[field]),
  }
  if c.name is not None:
    known = tuple(optimizer.OPTIMIZERS)
    facts['kind'] = lambda: choose(known, 'optimizer', 'name', c.name)
  return construct(optimizer.make_optimizer, c, 'optimizer', facts)


def build_ema_decays(config, more_steps=0.0):
  """Returns (rate of the average, {name: rate} of the others).

  A rate is step -> 1 - decay. more_steps: as of `optimizer.ema_power`.
  """
  c = config.training
  more = {
    ema_name(decay): optimizer.ema_decay(decay, c.ema_warmup)
    for decay in c.more_ema_decays
  } | {
    width_name(sigma_rel): optimizer.ema_power(sigma_rel, more_steps)
    for sigma_rel in c.ema_sigma_rels or ()
  }
  if c.ema_half_life is None:
    return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
  return optimizer.ema_half_life(
    c.ema_half_life, c.batch_size, c.ema_rampup
  ), more


def ema_name(decay):
  """Returns the name of an average in checkpoints, such as '0.999'."""
  return f'{decay:g}'


def width_name(sigma_rel):
  """Returns the name of an average by a power of time: 'sigma_rel_0.05'."""
  return f'{_WIDTH}{float(sigma_rel)!r}'


def width_of(name):
  """Returns the width in the name of an average, None in those of others."""
  found = name.startswith(_WIDTH)
  return float(name.removeprefix(_WIDTH)) if found else None


def build_mesh(config):
  """Returns the mesh of the run's devices, of config.training.mesh."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)
