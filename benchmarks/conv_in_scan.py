"""A training step by itself and inside lax.scan, our convolution against XLA's.

  python -m benchmarks.conv_in_scan                  # DDPM's CIFAR-10 network
  python -m benchmarks.conv_in_scan --config=digits --batch=64

Prints seconds per step (median of the rounds) and their ratios. The variants
take turns within one process, so a machine that changes speed does not favour
one of them. XLA's convolution inside a scan is timed once: on a CPU it is the
trap that `networks/convolution.py` works around.
"""

import importlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

from diffusion_jax import build, families
from diffusion_jax.networks import layers
from diffusion_jax.programs import train
from diffusion_jax.training.optimizer import ema_decay
from diffusion_jax.training.step import make_train_step

flags.DEFINE_string('config', 'cifar10', 'A file of configs/.')
flags.DEFINE_integer('batch', 8, 'Images per step.')
flags.DEFINE_integer('rounds', 5, 'Timed calls of each variant.')
flags.DEFINE_integer('steps', 3, 'Steps of the scan.')


def xla_conv(x, kernel, stride, padding):
  """Computes the convolution of flax.linen.Conv, with JAX's own gradients."""
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def compiled(config, batch, steps):
  """Returns (jitted function, state) of `steps` steps, by scan if > 1."""
  objective = families.of(config).objective(config)
  optimizer = build.build_optimizer(config)
  mesh, decays = build.build_mesh(config), build.build_ema_decays(config)
  make_state, _ = train.state_maker(config, objective, optimizer, decays, mesh)
  step = make_train_step(objective, optimizer, ema_decay(0.9999))
  key = jax.random.key(0)

  def run(state):
    if steps == 1:
      return step(state, batch, key)[0]
    return lax.scan(
      lambda s, _: (step(s, batch, key)[0], None), state, length=steps
    )[0]

  return jax.jit(run), make_state()


def seconds(function, state, steps):
  """Returns the wall seconds per step of one call."""
  start = time.perf_counter()
  jax.block_until_ready(function(state))
  return (time.perf_counter() - start) / steps


def main(_):
  """Times the four variants and prints a table."""
  args = flags.FLAGS
  config = importlib.import_module(f'configs.{args.config}').get_config()
  shape = (args.batch, *config.data.image_shape)
  batch = {
    'image': jax.random.uniform(jax.random.key(1), shape, minval=-1.0),
    'label': jnp.zeros(args.batch, jnp.int32),
  }

  ours = layers.conv2d
  variants = {}
  for name, conv in (('ours', ours), ('xla', xla_conv)):
    layers.conv2d = conv
    for place, steps in (('plain', 1), ('scan', args.steps)):
      if (name, place) == ('xla', 'scan'):
        steps = 2  # once, and no more than a loop needs
      function, state = compiled(config, batch, steps)
      function = function.lower(state).compile()
      variants[name, place] = function, state, steps
      print(f'compiled {name} {place}', flush=True)
  layers.conv2d = ours

  times = {variant: [] for variant in variants}
  for i in range(args.rounds + 1):  # the first round is a warm-up
    for variant, (function, state, steps) in variants.items():
      if variant == ('xla', 'scan') and i:
        continue
      times[variant].append(seconds(function, state, steps))
  median = {
    variant: statistics.median(t[1:] or t) for variant, t in times.items()
  }
  device = jax.devices()[0].device_kind
  print(f'{args.config}, batch {args.batch}, {device}; seconds per step')
  for (name, place), value in median.items():
    print(f'  {name:5} {place:6} {value:8.3f}')
  plain, scan = median['ours', 'plain'], median['ours', 'scan']
  print(f'ours, scan / plain:       {scan / plain:.2f}')
  print(f'plain, ours / xla:        {plain / median["xla", "plain"]:.2f}')
  print(f'scan, xla / ours:         {median["xla", "scan"] / scan:.1f}')


if __name__ == '__main__':
  app.run(main)
