"""Quality of samples by calls of the network, for every sampler.

  python -m benchmarks.quality_vs_calls runs/digits runs/digits_edm \
    runs/digits_flow --out=docs/images/samplers

Runs are of the digits, with labels. Of every sampler and number of calls 500
pictures are made, the same noise and labels for all; two figures are taken: the
fraction that an SVM classifies as requested, and the Frechet distance to
the real train split in the features of a perceptron that reads digits
(`evaluation.digits`). Writes <out>.json and <out>.png; without runs the picture
alone, of a table that is there.
"""

import functools
import json

import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags, logging

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.data import images
from diffusion_jax.demos import digits_judge as digits
from diffusion_jax.metrics.fid import frechet_distance, statistics
from diffusion_jax.programs import sample
from diffusion_jax.runs import run_folder

flags.DEFINE_string('out', 'samplers', 'Files to write, without their suffix.')
flags.DEFINE_integer('samples', 500, 'Pictures for each figure.')
flags.DEFINE_list('calls', ['5', '10', '25', '50'], 'Of the network.')
flags.DEFINE_list('only', [], 'Samplers by name; none: all.')

# name: (sampler of the schedule, calls per step, spacing)
SAMPLERS = {
  'ancestral': (lambda schedule: dj.ancestral(), 1, 'uniform'),
  'DDIM': (lambda schedule: dj.ddim(), 1, 'uniform'),
  'DDIM, uniform logSNR': (lambda schedule: dj.ddim(), 1, 'logsnr'),
  'Heun, Karras grid': (lambda schedule: dj.heun(), 2, 'karras'),
  'DPM-Solver++(2M)': (lambda schedule: dj.dpm_solver_pp(2), 1, 'logsnr'),
  'DPM-Solver++(3M)': (lambda schedule: dj.dpm_solver_pp(3), 1, 'logsnr'),
  'DPM-Solver++(2M) SDE': (
    lambda schedule: dj.dpm_solver_pp_sde(), 1, 'logsnr'
  ),
  'UniPC-2': (lambda schedule: dj.unipc(2), 1, 'logsnr'),
}  # fmt: skip


def measure(workdir, names, calls, count, judge, distance):
  """Returns [(sampler, calls, accuracy, distance)] of one run."""
  found = run_folder.read_config(workdir)
  config = run_folder.run_config(workdir, base_config(found))
  params = sample.restore(config, workdir)
  schedule = build.build_schedule(config)
  labels = np.arange(count) % 10
  keys = jax.random.split(jax.random.key(0), count)
  rows = []
  for name in names:
    make, per_step, spacing = SAMPLERS[name]

    @functools.partial(jax.jit, static_argnums=(1,))
    def generate(params, num_steps, make=make, spacing=spacing):
      denoise = build.build_denoiser(config, params, {'label': labels})
      levels = dj.level_grid(schedule, num_steps, spacing)
      x = dj.prior_sample(keys, (count, 8, 8, 1), levels.take(0))
      return dj.sample(keys, denoise, make(schedule), levels, x)

    for n in calls:
      num_steps = (n + 1) // 2 if per_step == 2 else n  # Heun ends with one
      x = images.to_uint8(np.asarray(generate(params, num_steps)), 17)
      spent = 2 * num_steps - 1 if per_step == 2 else num_steps
      row = (name, spent, judge(x, labels)['accuracy'], distance(x))
      print(f'{workdir}: {row[0]}, {row[1]} calls: {row[2]:.1%}, {row[3]:.3f}')
      rows.append(row)
  return rows


def base_config(found):
  """Returns the defaults of fields that the run does not have."""
  from configs import base

  config = base.get_config()
  config.update({'sampling': {'clip': bool(found['sampling']['clip'])}})
  return config


def main(argv):
  """Measures every run; writes the table and the plot."""
  args = flags.FLAGS
  logging.set_verbosity(logging.ERROR)
  if not argv[1:]:
    with open(f'{args.out}.json') as file:
      plot(**json.load(file), path=f'{args.out}.png')
    return
  features = digits.make_features()
  reference = statistics(features(digits.real('train')))

  def distance(x):
    return frechet_distance(statistics(features(x)), reference)

  names = args.only or list(SAMPLERS)
  calls = [int(n) for n in args.calls]
  table = {
    'real': distance(digits.real('test')),
    'runs': {
      workdir: measure(
        workdir, names, calls, args.samples, digits.judge, distance
      )
      for workdir in argv[1:]
    },
  }
  with open(f'{args.out}.json', 'w') as file:
    json.dump(table, file, indent=1)
  plot(**table, path=f'{args.out}.png')


def plot(real, runs, path):
  """Plots a column for each run: errors above, distances below."""
  figure, axes = plt.subplots(
    2, len(runs), figsize=(4.2 * len(runs), 7), squeeze=False, sharey='row'
  )
  for column, (workdir, rows) in zip(axes.T, runs.items(), strict=True):
    for name in dict.fromkeys(row[0] for row in rows):
      calls, accuracy, distance = zip(
        *(row[1:] for row in rows if row[0] == name), strict=True
      )
      column[0].plot(calls, 100 * np.array(accuracy), 'o-', label=name, ms=3)
      column[1].plot(calls, distance, 'o-', label=name, ms=3)
    column[0].set_title(workdir.rstrip('/').rpartition('/')[2])
    column[1].axhline(real, color='gray', ls=':', label='real test digits')
    column[1].set_xlabel('calls of the network')
    for axis in column:
      axis.set_xscale('log')
      axis.set_xticks([5, 10, 25, 50], ['5', '10', '25', '50'], minor=False)
      axis.minorticks_off()
      axis.grid(alpha=0.3)
    column[1].set_yscale('log')
  axes[0, 0].set_ylim(90, 100.5)
  axes[1, 0].set_ylim(0.15, 3)
  axes[0, 0].set_ylabel('classified as requested, %')
  axes[1, 0].set_ylabel('Fréchet distance, perceptron features')
  axes[1, -1].legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, dpi=70)


if __name__ == '__main__':
  app.run(main)
