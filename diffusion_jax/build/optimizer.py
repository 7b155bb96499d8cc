"""config.optimizer and config.training -> what trains."""

from diffusion_jax.build.make import choose, from_config
from diffusion_jax.training import optimizer, sharding


def build_learning_rate(config):
  """config.optimizer -> step -> learning rate."""
  c = config.optimizer
  choose(optimizer.DECAYS, 'optimizer', 'decay', c.decay)
  with from_config('optimizer'):
    return optimizer.learning_rate_schedule(
      c.learning_rate, c.warmup_steps, c.decay, c.decay_steps
    )


def build_optimizer(config):
  """config.optimizer -> optax transformation."""
  c = config.optimizer
  rate = build_learning_rate(config)
  masks, field = optimizer.WEIGHT_DECAY_MASKS, 'weight_decay_mask'
  return optimizer.make_optimizer(
    rate,
    clip_norm=c.clip_norm,
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    weight_decay_mask=choose(masks, 'optimizer', field, c[field]),
    repair_gradients=c.repair_gradients,
  )


def build_ema_decays(config):
  """config.training -> (decay of the average, {name: decay} of others)."""
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
  """The name of an average in checkpoints: '0.999'."""
  return f'{decay:g}'


def build_mesh(config):
  """config.training.mesh -> the devices of the run."""
  with from_config('training.mesh'):
    return sharding.make_mesh(*config.training.mesh)
