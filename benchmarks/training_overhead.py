"""Time of training outside its compiled steps: the program against bare calls.

  python -m benchmarks.training_overhead                  # the digits
  python -m benchmarks.training_overhead --steps_per_call=1

The program trains in a temporary folder, reads its data, writes its log and
checks its numbers, without pictures, evaluations and checkpoints; the speed is
that of its log. The bare calls are of the same compiled function with batches
that are already on the device. The two take turns, and each pair gives a ratio.
"""

import importlib
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags

from diffusion_jax import build, families
from diffusion_jax.programs import train
from diffusion_jax.runs import user_cache
from diffusion_jax.runtime.sharding import to_global

flags.DEFINE_string('config', 'digits', 'A file of configs/.')
flags.DEFINE_integer('steps', 200, 'Steps of a measurement, a multiple of 100.')
flags.DEFINE_integer('steps_per_call', 0, 'Other than that of the config.')
flags.DEFINE_integer('batch', 0, 'Other than that of the config.')
flags.DEFINE_integer('rounds', 5, 'Pairs.')


def prepare(args):
  """Returns the config, with nothing to do but to train and to log."""
  config = importlib.import_module(f'configs.{args.config}').get_config()
  c = config.training
  c.batch_size = args.batch or c.batch_size
  c.steps_per_call = args.steps_per_call or c.steps_per_call
  c.num_steps = 100 + args.steps
  c.log_every = 100
  c.evaluate_every = c.sample_every = c.checkpoint_every = 0
  config.report.after_training = False
  return config


def program_seconds(config):
  """Returns the seconds per step of the program, after its first 100."""
  with tempfile.TemporaryDirectory() as folder:
    train.run(config, folder)
    text = (Path(folder) / 'metrics.jsonl').read_text()
  speeds = [
    json.loads(line)['images_per_second'] for line in text.splitlines()[1:]
  ]
  return config.training.batch_size * statistics.mean(1 / x for x in speeds)


def bare(config):
  """Returns a function that gives the seconds per step of bare calls."""
  mesh = build.build_mesh(config)
  objective = families.of(config).objective(config)
  optimizer = build.build_optimizer(config)
  decays = build.build_ema_decays(config)
  make_state, shapes = train.state_maker(
    config, objective, optimizer, decays, mesh
  )
  advance = train.make_advance(
    config, objective, optimizer, decays, shapes, mesh
  )
  source = build.build_source(config, 'train')
  size = config.training.steps_per_call
  batches = itertools.islice(build.build_batches(config, source), size)
  batches = [to_global(mesh, batch) for batch in batches]
  state, _ = advance(make_state(), batches)
  calls = (config.training.num_steps - 100) // size

  def seconds():
    nonlocal state
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(calls):
      state, _ = advance(state, batches)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / (calls * size)

  return seconds


def main(_):
  """Times pairs and prints the ratio."""
  args = flags.FLAGS
  user_cache.keep_compilations()  # The program is compiled in each round.
  config = prepare(args)
  bare_seconds, pairs = bare(config), []
  for i in range(args.rounds):
    measure = [lambda: program_seconds(config), bare_seconds]
    values = [each() for each in (measure if i % 2 else measure[::-1])]
    pairs.append(values if i % 2 else values[::-1])
  ratios = [program / alone for program, alone in pairs]
  c, device = config.training, jax.devices()[0].device_kind
  print(
    f'{args.config}, batch {c.batch_size}, {c.steps_per_call} steps a call, '
    f'{device}'
  )
  program, alone = (1e3 * min(times) for times in zip(*pairs, strict=True))
  print(f'  program {program:8.2f} ms a step at least')
  print(f'  bare    {alone:8.2f} ms a step at least')
  print(f'ratio of these:  {program / alone:.3f}')
  print(f'median of pairs: {statistics.median(ratios):.3f} of')
  print('  ' + ' '.join(f'{ratio:.3f}' for ratio in ratios))


if __name__ == '__main__':
  app.run(main)
