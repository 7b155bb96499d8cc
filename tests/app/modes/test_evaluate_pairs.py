"""Calibration on held-out pairs: what its draws and densities belong to."""

import dataclasses
import types

import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models, scoring
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import evaluate_pairs
from diffusion_jax.app.run import provenance
from diffusion_jax.metrics.metric import SampleMetric
from tests.app.conftest import of_run, refused, trial, untrained
from tests.app.fields import within

SPREAD = 0.5


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  few = within('data', num_examples=100, num_test=16)
  few |= {'sampling.checkpoint': 'latest', 'training.keep_best': 0}
  workdir = tmp_path_factory.mktemp('pairs') / 'run'
  return untrained(trial('two_moons', **few), workdir)


def model_of(run, **fields):
  """Returns the run with an exact denoiser of N(standardised context, 1/4)."""
  few = within('evaluation', metrics='density_coverage', num_pairs=3)
  few |= within('evaluation', draws_per_pair=2, batch_size=4)
  model = models.make(of_run(run, **few | fields), run)

  def denoiser(params, cond):
    def denoise(x, level):
      at = level.expand_to(x)
      gain = at.alpha * SPREAD**2 / (at.alpha**2 * SPREAD**2 + at.sigma**2)
      return dj.Prediction(cond['context'] + gain * (x - at.alpha * cond['context']))

    return denoise

  measured = types.SimpleNamespace(
    facts=model.facts, schedule=lambda params: dj.KarrasSchedule(2e-3, 40.0), denoiser=denoiser
  )
  return dataclasses.replace(model, measured=measured)


class Seen(list):
  """A metric of pairs, and the arrays that it was given."""

  def compute(self, samples, reference):
    self.append((samples, reference))
    return []

  def as_scored(self):
    metric = SampleMetric({}, ('draws', 'log_q'), self.compute)
    return [scoring.Scored('seen', metric, '', '')]


@pytest.fixture
def draws(monkeypatch):
  """Draws from a normal distribution, instead of by the network."""
  drawn = np.random.default_rng(0).normal(0.0, 0.3, (6, 2)).astype(np.float32)

  def draw(model, out, **fields):
    np.savez(out / 'samples.npz', arr_0=drawn)
    return out / 'samples.npz'

  monkeypatch.setattr(evaluate_pairs, 'draw', draw)
  return drawn.reshape(3, 2, 2)


def test_densities_are_of_their_own_pair(run, draws, tmp_path, monkeypatch):
  """Draws of an exact denoiser are kept for the same draws and settings."""
  seen, model = Seen(), model_of(run)
  evaluate_pairs.score(model, seen.as_scored(), tmp_path)
  (samples, reference), facts = seen[0], model.facts
  pairs = datasets.source_of(model.config, 'test').read(np.arange(3))
  np.testing.assert_array_equal(reference['context'], pairs['context'])
  np.testing.assert_array_equal(reference['truth'], pairs['x'])
  np.testing.assert_array_equal(samples['draws'], draws)
  context = facts.context.encode(pairs['context'])

  def log_q(x, context):
    z = np.linalg.norm(facts.x.encode(x) - context, axis=-1) / SPREAD
    return -0.5 * z**2 - 2.0 * np.log(SPREAD)

  found = np.c_[reference['log_q'], samples['log_q']]
  exact = np.c_[log_q(pairs['x'], context), log_q(draws, context[:, None])]
  assert np.ptp(exact) > 3.0
  found, exact = found - found.mean(), exact - exact.mean()
  np.testing.assert_allclose(found, exact, rtol=0.03, atol=0.1)
  stamps = [x.stat().st_mtime_ns for x in sorted(tmp_path.glob('log_q/*'))]
  evaluate_pairs.score(model, seen.as_scored(), tmp_path)
  again = [x.stat().st_mtime_ns for x in sorted(tmp_path.glob('log_q/*'))]
  assert again == stamps and len(stamps) == 3
  changed = model_of(run, **{'evaluation.batch_size': 3})
  message = 'log_q has other settings: .*{} is .* now.*evaluation.name'
  args = seen.as_scored(), tmp_path
  refused(message.format('batch_size'), evaluate_pairs.score, changed, *args)
  changed = model_of(run, **{'evaluation.seed': 3})
  refused(message.format('seed'), evaluate_pairs.score, changed, *args)
  draws += 1.0
  refused(message.format('read.draws'), evaluate_pairs.score, model, *args)
  monkeypatch.setattr(provenance.checksums, 'of_arrays', lambda tree: 7)
  refused(message.format('weights'), evaluate_pairs.score, model, *args)
