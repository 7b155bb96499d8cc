"""Scores draws for held-out pairs: the calibration of a conditional model."""

import math
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app import scoring
from diffusion_jax.app.config import store, trust
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.model import Model
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.data import npz
from diffusion_jax.metrics import calibration, plots, real_images, references
from diffusion_jax.metrics.likelihoods import ode
from diffusion_jax.metrics.metric import Arrays, as_json, table
from diffusion_jax.runtime import buckets, processes
from diffusion_jax.runtime.files import write_json, write_npz


def draw(model: Model, out: Path, **fields: object) -> Path:
  """Draws samples with these fields of config.sampling; returns their file."""
  fields |= {'name': 'samples', 'trajectory': False}
  changes = {f'sampling.{name}': x for name, x in fields.items()}
  config = store.with_fields(model.config, changes)
  below = out.relative_to(model.workdir)
  return sample.draw(config, model.workdir, below, 'evaluation.name')


def score(model: Model, metrics: list[scoring.Scored], out: Path) -> Json:
  """Draws for held-out pairs; writes the scores and curves of calibration.

  Returns the scores as JSON in the first process, {} in the others.
  """
  c, facts = model.config.evaluation, model.facts
  assert facts.context is not None  # else it was refused
  source = datasets.source_of(model.config, c.split)
  index = np.arange(min(c.num_pairs, len(source)))
  with from_config('data'):
    arrays = source.read(index)
  path = out / 'context.npz'
  if processes.is_first():
    write_npz(path, {'context': arrays['context']})
  buckets.share(path, 'held-out pairs')
  trust.allow([str(path)])
  fields = {'context': str(path), 'context_row': None}
  drawn = draw(model, out, num_samples=c.draws_per_pair, **fields)
  buckets.share(drawn, 'draws of the pairs')
  draws = npz.read(drawn, ['arr_0'])['arr_0']
  draws = draws.reshape(len(index), -1, *draws.shape[1:])
  truth = references.as_written(source, arrays['x'])
  samples: Arrays = {'draws': draws}
  reference: Arrays = {'truth': truth, 'context': arrays['context']}
  if any('log_q' in each.metric.needs for each in metrics):
    log_q = log_density(model, drawn, draws, reference)
    samples['log_q'], reference['log_q'] = log_q[:, 1:], log_q[:, 0]
  if not processes.is_first():
    return {}
  enough = draws.shape[1] > 1 and len(index) >= calibration.LEAST_PAIRS
  if enough and all(x.name != 'contraction' for x in metrics):
    # Calibrated draws may be as wide as the prior.
    wide = scoring.Scored('contraction', calibration.contraction(), '', '')
    metrics = [*metrics, wide]
  found = [scoring.compute(each, samples, reference) for each in metrics]
  scores = [score for part in found for score in part]
  levels = calibration.all_levels(samples, reference)
  plots.plot_ranks(out / 'ranks.png', levels.pop('ranks'))
  plots.plot_coverage(out / 'coverage.png', levels)
  write_json(
    out / 'result.json',
    {
      'pairs': len(index),
      'draws_per_pair': c.draws_per_pair,
      'split': c.split,
      'protocol': {'samples': provenance.read(drawn)},
      'metrics': as_json(scores),
    },
  )
  print(table(scores), out / 'result.json', sep='\n')
  return as_json(scores)


def log_density(model: Model, drawn: Path, draws: np.ndarray, reference: Arrays) -> np.ndarray:
  """Returns log q of the truth and its draws, nats, [M, 1 + n].

  By the ODE, up to a constant. drawn: the file of the draws; reference: their
  truth and context.
  """
  facts, c, truth = model.facts, model.config.evaluation, reference['truth']
  assert facts.context is not None
  each = np.concatenate([truth[:, None], draws], axis=1)
  flat, rows = each.reshape(-1, *truth.shape[1:]), each.shape[1]
  encoded = facts.context.encode(reference['context'])
  run = weights.open_run(model, 'evaluate')
  used = {'evaluation': {'seed': c.seed, 'batch_size': c.batch_size}}
  settings = provenance.settings(run, used, {'draws': draws, **reference})

  def read(index):
    return flat[index], {'context': encoded[index // rows]}

  measure, params = ode(box_draws=0).measure(model.measured), run.on_devices()
  args = measure, 'ode', params, read, len(flat)
  how = scoring.kept_in(run, drawn.with_name('log_q'), settings)
  arrays = real_images.arrays_of(*args, **how)
  if arrays is None:
    return np.zeros(each.shape[:2])
  return -arrays['nats'].reshape(each.shape[:2]) * math.prod(facts.x.shape)
