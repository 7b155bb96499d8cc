"""Builds the optimizer, the averages and the mesh of a training."""

from diffusion_jax.build.make import choose, construct, from_config, renamed
from diffusion_jax.training import optimizer, sharding


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


def build_ema_decays(config):
  """Returns (decay of the average, {name: decay} of the others)."""
  c = config.training
  more = {
    ema_name(decay): optimizer.ema_decay(decay, c.ema_warmup)
    for decay in c.more_ema_decays
  }
  if c.ema_half_life is None:
    return optimizer.ema_decay(c.ema_decay, c.ema_warmup), more
  return optimizer.ema_half_life(
    c.ema_half_life, c.batch_size, c.ema_rampup
  ), more


def ema_name(decay):
  """Returns the name of an average in checkpoints, such as '0.999'."""
  return f'{decay:g}'


def build_mesh(config):
  """Returns the mesh of the run's devices, of config.training.mesh."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)
