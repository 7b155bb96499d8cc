"""A product with the Jacobian of a network against its plain forward pass.

  python -m benchmarks.forward_mode                    # the digits' U-Net
  python -m benchmarks.forward_mode --config=digits_dit --batch=256

Both are jitted, by themselves and in a `lax.scan`, with a tangent of x_t and
of the time as in MeanFlow. They take turns within one process: printed are
medians of seconds, and the median and the range of the ratios of the rounds.
"""

import importlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

from diffusion_jax import build
from diffusion_jax.build.network import network_fn as make_network_fn

flags.DEFINE_string('config', 'digits', 'A file of configs/.')
flags.DEFINE_integer('batch', 64, 'Images.')
flags.DEFINE_integer('rounds', 15, 'Timed calls of each variant.')
flags.DEFINE_integer('calls', 5, 'Of the network, in the loop.')


def variants(config, batch, calls):
  """Returns the four compiled functions of no arguments, by name."""
  network_fn = make_network_fn(config, build.build_network(config))
  params = build.init_params(config)(jax.random.key(0))['network']
  x = jax.random.normal(jax.random.key(1), (batch, *config.data.image_shape))
  t = jnp.linspace(0.1, 0.9, batch)
  cond = {'label': jnp.zeros(batch, jnp.int32)}
  if config.conditioning.dropout:
    cond['drop'] = jnp.zeros(batch, bool)

  def plain(x):
    return network_fn(params, x, t, cond)

  def product(x):
    u, du = jax.jvp(lambda x, t: network_fn(params, x, t, cond), (x, t), (x, t))
    return u + du

  def scanned(function):
    def run(x):
      return lax.scan(lambda x, _: (0.1 * function(x), None), x, length=calls)[
        0
      ]

    return run

  functions = {}
  for name, function in (('forward', plain), ('jvp', product)):
    for place, run in (('jit', function), ('scan', scanned(function))):
      functions[name, place] = jax.jit(run).lower(x).compile(), x
  return functions


def main(argv):
  """Times the variants and prints their ratios."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  args = flags.FLAGS
  config = importlib.import_module(f'configs.{args.config}').get_config()
  functions = variants(config, args.batch, args.calls)
  times = {name: [] for name in functions}
  for _ in range(args.rounds + 1):  # the first round is a warm-up
    for name, (function, x) in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function(x))
      times[name].append(time.perf_counter() - start)
  for place, calls in (('jit', 1), ('scan', args.calls)):
    forward, product = (times[n, place][1:] for n in ('forward', 'jvp'))
    ratios = sorted(b / a for a, b in zip(forward, product, strict=True))
    print(
      f'{args.config}, {place}: forward '
      f'{statistics.median(forward) / calls:.4f} s, jvp '
      f'{statistics.median(product) / calls:.4f} s, ratio '
      f'{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})'
    )


if __name__ == '__main__':
  app.run(main)
