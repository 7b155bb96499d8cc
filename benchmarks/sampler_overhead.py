"""Time of a sampler besides its network: `sample` and bare calls.

  python -m benchmarks.sampler_overhead                  # the digits' network
  python -m benchmarks.sampler_overhead --sampler=unipc --config=cifar10

Both are one compiled program with as many calls of the same network: a
sampler's `lax.scan`, and one whose body is the network alone. They take turns,
so a machine that changes speed favours neither; the ratio of the shortest times
is that of a machine that nobody disturbs.
"""

import importlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

import diffusion_jax as dj
from diffusion_jax import build, families

flags.DEFINE_string('config', 'digits', 'A file of configs/.')
flags.DEFINE_string('sampler', 'ancestral', 'One that calls once a step.')
flags.DEFINE_integer('batch', 16, 'Images.')
flags.DEFINE_integer('steps', 1000, 'Steps of the sampler, calls of both.')
flags.DEFINE_integer('rounds', 10, 'Timed pairs.')


def programs(config, steps):
  """Returns two functions (params, x) -> x: sampler, and network alone."""
  schedule = build.build_schedule(config)
  sampler = build.build_sampler(config, schedule)
  levels = dj.level_grid(schedule, steps)
  key = jax.random.key(0)

  def denoiser(params, x):
    labels = jnp.zeros(len(x), jnp.int32)
    cond = {'label': labels} if config.conditioning.labels else {}
    return build.build_denoiser(config, params, cond)

  def sampling(params, x):
    return dj.sample(key, denoiser(params, x), sampler, levels, x)

  def bare(params, x):
    denoise = denoiser(params, x)

    def body(x, level):
      return denoise(x, level).x0, None  # which depends on the call before

    return lax.scan(body, x, levels.take(slice(None, -1)))[0]

  return {'sampler': jax.jit(sampling), 'bare': jax.jit(bare)}


def main(_):
  """Times pairs of runs and prints the ratio."""
  args = flags.FLAGS
  config = importlib.import_module(f'configs.{args.config}').get_config()
  config.sampling.sampler = args.sampler
  params = jax.jit(families.of(config).init(config))(jax.random.key(0))
  x = jax.random.normal(
    jax.random.key(1), (args.batch, *config.data.image_shape)
  )
  compiled = {
    name: program.lower(params, x).compile()
    for name, program in programs(config, args.steps).items()
  }
  times = {name: [] for name in compiled}
  for i in range(args.rounds + 1):  # the first round is a warm-up
    order = list(compiled) if i % 2 else list(compiled)[::-1]
    for name in order:
      start = time.perf_counter()
      jax.block_until_ready(compiled[name](params, x))
      times[name].append(time.perf_counter() - start)
  ratios = [
    a / b for a, b in zip(times['sampler'][1:], times['bare'][1:], strict=True)
  ]
  device = jax.devices()[0].device_kind
  print(f'{args.config}, {args.sampler}, {args.steps} steps, {device}')
  shortest = {name: min(values[1:]) for name, values in times.items()}
  for name, value in shortest.items():
    print(f'  {name:8} {value:8.3f} s at least')
  print(f'ratio of these:  {shortest["sampler"] / shortest["bare"]:.3f}')
  print(f'median of pairs: {statistics.median(ratios):.3f} of')
  print('  ' + ' '.join(f'{ratio:.3f}' for ratio in ratios))


if __name__ == '__main__':
  app.run(main)
