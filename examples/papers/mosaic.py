"""Convolutions make mosaics of patches (Kamb & Ganguli 2024, arXiv 2412.20292).

Of all denoisers that see a window around each pixel and treat all pixels alike, the best one on a
training set is known: a pixel is the mean of the centres of all training patches, weighted by how
near they are to the window of x_t. A network of convolutions without attention should draw what it
draws from the same noise; the denoiser that memorises whole pictures draws others. Borders are
cyclic, so that all pixels are alike; the pictures are digits of scikit-learn.

  python -m benchmarks.claims mosaic
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.training import objectives
from examples.papers.closed_target import memorised
from examples.papers.drifting import digits
from examples.papers.fitting import draw, fit

SIDE, EXAMPLES, CHANNELS, SCHEDULE = 8, 64, 16, dj.RectifiedFlowSchedule()


class Convolutions(nn.Module):
  """Computes a velocity [B, 8, 8, 1] with windows of 5 x 5 pixels: x_t, t [B]."""

  @nn.compact
  def __call__(self, x, t):
    """Computes the velocity."""
    wave = jnp.concatenate(
      [jnp.sin(jnp.outer(t, w := jnp.arange(1.0, 9.0))), jnp.cos(t[:, None] * w)], 1
    )
    for width in (3, 1, 3, 1):  # a convolution is a linear layer of windows
      h = nn.Dense(CHANNELS)(windows(x, width))
      scale, shift = jnp.split(nn.Dense(2 * CHANNELS)(wave)[:, None, None], 2, axis=-1)
      x = nn.silu(h * (1.0 + scale) + shift)
    return nn.Dense(1)(x)


def apply(params, x, noise, cond, *, key=None):
  """Evaluates the convolutions, the network of `dj.Network`."""
  return Convolutions().apply({'params': params}, x, noise)


NETWORK = dj.Network(apply, dj.time_input(1.0), parametrization='flow')


def windows(x, width: int):
  """Returns the cyclic window around each pixel of x [B, 8, 8, C], [B, 8, 8, width^2 C]."""
  reach = range(-(width // 2), width // 2 + 1)
  return jnp.concatenate([jnp.roll(x, (i, j), axis=(1, 2)) for i in reach for j in reach], axis=-1)


def local(examples, width: int = 5) -> dj.Denoiser:
  """Returns the best local denoiser of a training set that treats all pixels alike."""
  patches = windows(examples, width).reshape(-1, width**2)
  square = jnp.square(patches).sum(axis=1)

  def denoise(xt, level):
    at = level.expand_to(xt)
    near = (
      at.alpha * (windows(xt, width) @ patches.T) - 0.5 * at.alpha**2 * square[None, None, None]
    )
    weight = jax.nn.softmax(near / at.sigma**2, axis=-1)
    return Prediction(weight @ patches[:, width**2 // 2 :][:, :1])

  return denoise


def whole(examples) -> dj.Denoiser:
  """Returns the denoiser that memorises whole pictures."""
  rows = memorised(examples.reshape(len(examples), -1))
  return lambda xt, level: Prediction(rows(xt.reshape(len(xt), -1), level).x0.reshape(xt.shape))


def explained(x, by):
  """Returns the median over pictures of the share of the variance of x that is explained, r^2."""
  axes = 1, 2, 3
  variance = jnp.square(x - x.mean(axis=axes, keepdims=True)).sum(axis=axes)
  return jnp.median(1.0 - jnp.square(x - by).sum(axis=axes) / variance)


@jax.jit
def shares(key, pictures):
  """Trains twice, draws by each denoiser from the same noise, and returns each r^2."""
  x_key, init_key, key, again, noise_key = jax.random.split(key, 5)
  x = jax.random.choice(x_key, pictures, (EXAMPLES,), replace=False)
  noise = jax.random.normal(noise_key, (16, SIDE, SIDE, 1))

  def batch(key):
    return {'x': jax.random.choice(key, x, (32,))}

  params = Convolutions().init(init_key, x[:1], jnp.zeros(1))['params']
  loss = objectives.denoising(NETWORK, SCHEDULE, times=dj.uniform_times, weight=dj.flow_weight)
  drawn = [draw(NETWORK, fit(k, loss, params, batch, 1200), noise, 12) for k in (key, again)]
  levels = dj.level_grid(SCHEDULE, 12)
  by = {
    name: dj.sample(key, denoise, dj.velocity_heun(SCHEDULE), levels, noise)
    for name, denoise in (('local', local(x)), ('memorised', whole(x)))
  }
  found = {name: explained(drawn[0], by[name]) for name in by}
  return found | {'again': explained(drawn[1], by['local'])}


def track(seed: int) -> dict[str, float]:
  """Measures r^2 of a network's draws by the local denoiser, and by that which memorises."""
  pictures = digits('train').reshape(-1, SIDE, SIDE, 1)
  found = {name: float(x) for name, x in shares(jax.random.key(seed), pictures).items()}
  return found | {'nothing': 0.0}
