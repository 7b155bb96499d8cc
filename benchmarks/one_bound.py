"""Bounds on log p(x) from the VAE to VDM, on the handwritten digits.

  python -m benchmarks.one_bound --runs=runs

Trains each model that has no finished run <runs>/one_bound_<config> yet,
evaluates the bound on the test split, for the VAEs the importance-weighted one
too, and draws samples, by the commands a user would type. Prints the table
(Markdown) and writes <out>.json and <out>.png, a row of samples for each model.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from diffusion_jax import families
from diffusion_jax.data import images
from diffusion_jax.runs import run_folder

flags.DEFINE_string('runs', 'runs', 'The folder of the run folders.')
flags.DEFINE_string('out', 'one_bound', 'Files to write, without suffix.')
flags.DEFINE_integer('samples', 20, 'Pictures of each model.')


class Entry(NamedTuple):
  """Holds a row: its name, config, and the fields of the command line."""

  name: str
  config: str
  metrics: str
  train: tuple = ()
  evaluate: tuple = ()


ENTRIES = (
  Entry('VAE', 'digits_vae', 'elbo,iw'),
  Entry('hierarchical VAE, T = 3', 'digits_hvae', 'elbo,iw'),
  Entry(
    'KL autoencoder (of latent diffusion)', 'digits_autoencoder', 'elbo,iw'
  ),
  Entry(
    'DDPM, L_simple', 'digits', 'elbo', ('--config.schedule.start=1.6e-3',)
  ),
  Entry('DDPM, learned variance', 'digits_improved', 'elbo'),
  Entry(
    'VDM',
    'digits_vdm',
    'elbo',
    (),
    ('--config.evaluation.decoder=categorical',),
  ),
)


def launch(entry, workdir, mode, *arguments):
  """Runs a command of the command line; exits if it fails."""
  command = [
    sys.executable,
    'launch.py',
    f'--config=configs/{entry.config}.py',
    f'--workdir={workdir}',
    f'--mode={mode}',
    *entry.train,
    *arguments,
  ]
  print('python', *command[1:], flush=True)
  subprocess.run(command, check=True)


def measure(entry, workdir, samples):
  """Trains, evaluates and samples; returns the figures of the row."""
  launch(entry, workdir, 'train')
  launch(
    entry,
    workdir,
    'evaluate',
    f'--config.evaluation.metrics={entry.metrics}',
    '--config.evaluation.name=one_bound',
    *entry.evaluate,
  )
  launch(
    entry,
    workdir,
    'sample',
    f'--config.sampling.num_samples={samples}',
    '--config.sampling.name=one_bound',
  )
  found = {'parameters': parameters(workdir), 'seconds': seconds(workdir)}
  for metric in entry.metrics.split(','):
    path = workdir / 'evaluation' / f'{metric}-test-one_bound' / 'result.json'
    result = json.loads(path.read_text())
    found[metric] = result['bits_per_dim'], result['standard_error']
  return found


def parameters(workdir):
  """Returns the number of parameters."""
  from configs import base

  config = run_folder.run_config(workdir, base.get_config())
  leaves = jax.tree.leaves(families.abstract_params(config))
  return sum(x.size for x in leaves)


def seconds(workdir):
  """Returns the seconds of training by its log, without compilation."""
  found = run_folder.read_config(workdir)
  if found is None:
    raise SystemExit(f'there is no run in {workdir}')
  config = found['training']
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rates = [json.loads(line) for line in lines]
  rates = [x['images_per_second'] for x in rates if 'images_per_second' in x]
  images_seen = config['num_steps'] * config['batch_size']
  return images_seen * float(np.mean(1.0 / np.array(rates)))


def line(entry, found):
  """Returns a row of the table."""
  bits = [
    '{:.3f} ± {:.3f}'.format(*found[m]) if m in found else ''
    for m in ('elbo', 'iw')
  ]
  minutes, rest = divmod(round(found['seconds']), 60)
  cells = (
    entry.name,
    f'{found["parameters"]:,}',
    f'{minutes} min {rest} s',
    *bits,
  )
  return f'| {" | ".join(cells)} |'


def main(argv):
  """Prints the table and writes the picture."""
  del argv
  args = flags.FLAGS
  table, rows = {}, []
  for entry in ENTRIES:
    workdir = Path(args.runs) / f'one_bound_{entry.config}'
    table[entry.name] = measure(entry, workdir, args.samples)
    with np.load(workdir / 'samples' / 'one_bound.npz') as arrays:
      rows.append(arrays['arr_0'][: args.samples])
  header = 'model', 'parameters', 'training', 'bits/dim, ELBO', 'k = 100'
  print(f'| {" | ".join(header)} |\n|{"---|" * len(header)}')
  for entry in ENTRIES:
    print(line(entry, table[entry.name]))
  Path(f'{args.out}.json').write_text(json.dumps(table, indent=1))
  sheet = images.grid(np.concatenate(rows), args.samples, zoom=5)
  images.write_png(f'{args.out}.png', sheet)
  print(f'wrote {args.out}.json, {args.out}.png')


if __name__ == '__main__':
  app.run(main)
