"""What a user may write, each part with a field of its own."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.core.keys import draw_normal
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.data import sources
from diffusion_jax.declared import declares
from diffusion_jax.few_steps.average_velocity import mean_flow
from diffusion_jax.training import objectives


class Network(nn.Module):
  """A network of one layer."""

  out_channels: int
  width: int = 2

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    noise = jnp.broadcast_to(noise[:, None, None, None], x.shape)
    h = nn.tanh(nn.Dense(self.width)(jnp.concatenate([x, noise], -1)))
    return nn.Dense(self.out_channels)(h)


class Pooled(nn.Module):
  """Returns a number for each image, not an image."""

  takes = ('label',)

  out_channels: int

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    return nn.Dense(self.out_channels)(x).mean((1, 2, 3))


def number(split='', network=None):
  """Returns what no field needs."""
  return 0.5


def nothing():
  return lambda level: None


def backwards():
  """Returns a schedule with noise at t = 0."""
  return lambda t: Schedule()(1.0 - t)


def ramp():
  return lambda t: 1.0 - t


def estimate():
  """Returns the sampler whose step forgets its state."""
  step = lambda key, x, state, denoise, **levels: denoise(x, levels['level_t']).x0
  return dj.Sampler(lambda x: (), step)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Has alpha = cos, sigma = sin of an angle from `first` to pi/2 - `first`."""

  first: float = 0.1

  def __call__(self, t):
    angle = self.first + t * (np.pi / 2 - 2 * self.first)
    return dj.NoiseLevel(t, jnp.cos(angle), jnp.sin(angle))


def predicted(kind: str = 'v'):
  return Parametrization(kind)


def sampler(damping: float = 1.0):
  """Returns the ODE's step, times `damping`."""
  inner = dj.ddim()

  def step(key, x, state, denoise, *, level_s, level_t):
    x, state = inner.step(key, x, state, denoise, level_s=level_s, level_t=level_t)
    return damping * x, state

  return dj.Sampler(inner.init, step)


def fresh(draw: Literal['normal', 'draw_normal', 'one_number'] = 'normal'):
  """Steps to level s with new noise, by a function of JAX or of the library."""

  def step(key, x, state, denoise, *, level_s, level_t):
    noise = {
      'normal': lambda: jax.random.normal(key, x.shape),
      'draw_normal': lambda: draw_normal(key, x),
      'one_number': lambda: jax.random.normal(key),
    }[draw]()
    return level_s.alpha * denoise(x, level_t).x0 + level_s.sigma * noise, state

  return dj.Sampler(lambda x: (), step)


def objective(network, schedule, factor: float = 1.0):
  """Returns the loss of the network's parametrization, times `factor`."""
  weight = lambda level: factor * dj.snr_weight(level)
  return objectives.denoising(network, schedule, times=dj.uniform_times, weight=weight)


def centred(network, schedule, branch: str = 'centre'):
  """Returns a loss with a parameter of its own, c, as well: |x_0 - c|^2 per dimension."""
  one = objective(network, schedule)

  def loss(params, context, inputs, keys):
    value, (metrics, records) = one.loss(params, context, inputs, keys)
    apart = jnp.square(inputs.x0 - params[branch]['c'])
    own = objectives.means(apart=apart.reshape(len(apart), -1).mean(1))
    return value + own['apart'].total / own['apart'].count, (metrics | own, records)

  return dataclasses.replace(
    one, loss=loss, parameters=lambda key: {branch: {'c': jax.random.normal(key)}}
  )


def of_the_batch(network, schedule, separable: bool = True):
  """Returns a loss that is not a mean over rows, which its author may say."""
  one = objective(network, schedule)

  def loss(*args):
    value, (metrics, records) = one.loss(*args)
    return jnp.sqrt(value), (metrics, records)

  return dataclasses.replace(one, loss=loss, separable=separable)


@declares(map_kind='average_velocity', forward_mode=True)
def flow_map(network, schedule, power: float = 0.0):
  """Returns the loss of a flow map."""
  return mean_flow(network, schedule, adaptive_power=power)


def _small(config, facts):
  size = config.training.batch_size
  return f'a mean over {size} examples is too noisy: set training.batch_size=512' * (size < 512)


@declares(data='pictures', instead='take objective=denoising', denoises=True, refuses=_small)
def careful(network, schedule, flip: bool = False):
  """Returns the loss of `objective`, which says what it needs."""
  return objective(network, schedule)


@declares(estimates=False)
def generator(network, schedule, scale: float = 1.0):
  """Returns the loss of a network that makes samples of noise, and no estimates of x_0."""

  def draw(key, batch, context):
    return objectives.draw_inputs(key, batch, schedule, network, dj.uniform_times)

  def loss(params, context, inputs, keys):
    output = network.output(params['network'], inputs.eps, schedule(1.0), inputs.cond, keys[0])
    metrics = objectives.means(loss=scale * jnp.square(output - inputs.x0))
    return metrics['loss'].total, (metrics, ())

  return objectives.Objective(draw, loss)


def unnamed(network, schedule):
  """Returns a loss without metrics."""
  one = objective(network, schedule)
  return dataclasses.replace(one, loss=lambda *args: (one.loss(*args)[0], ({}, ())))


def of_words():
  """Returns a coupling of a condition that the data do not have."""
  return lambda key, x0, y, cond: cond['words'].argmax(axis=1)


class Upward:
  """Visits levels from clean to noisy."""

  def levels(self, schedule, end_clean=True):
    return schedule(jnp.linspace(0.1, 1.0, 4))


@declares(fields={'damping': 'levels'}, draws_noise=True, keeps_x=True)
def noisy_sampler(damping: float = 0.0):
  return sampler()


def times(schedule_steps, power: float = 1.0):
  """Returns times u^power."""

  def draw(key, batch_size, schedule):
    level, weight = dj.uniform_times(key, batch_size, schedule)
    return schedule(level.t**power), weight

  return draw


def weight(factor: float = 1.0):
  return lambda level: factor * dj.snr_weight(level)


def mean_weight():
  """Returns the weight of a batch, which a row alone does not have."""
  return lambda level: jnp.mean(level.snr)


def mean_noise():
  return lambda level: level.t - jnp.mean(level.t)


def mean_schedule():
  return lambda t: Schedule()(0.5 * (t + jnp.mean(t)))


def one_time():
  return lambda key, batch_size, schedule: (schedule(0.5), 1.0)


def noise_input(factor: float = 1.0):
  return lambda level: factor * level.t


def pictures(split, count: int = 8, image_shape: tuple[int, int, int] = (8, 8, 1)):
  """Returns random pictures, the same for both splits."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
  return sources.ArraySource(images, np.arange(count, dtype=np.int32) % 10, 10)


def curves(split):
  """Returns sequences of real numbers that never change."""
  return sources.ArraySource(np.zeros((20, 64, 2)))


class UnitPictures:
  """Pictures in [0, 1] instead of grey levels."""

  in_memory = True
  facts = property(lambda self: sources.pictures((8, 8, 1)))

  def __init__(self, split):
    pass

  def __len__(self):
    return 20

  def read(self, index):
    return {'x': np.full((len(index), 8, 8, 1), 0.5, np.float32)}


def optimizer(total_steps, rate: float = 0.1):
  return optax.sgd(1.0), lambda step: rate * (1 - step / total_steps)


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Averages both predictions, times `scale`."""

  scale: float = 1.0

  def guide(self, pair, scale):
    return lambda x, level: pair(x, level)[0]
