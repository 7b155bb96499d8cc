"""--mode=evaluate of real images and of held-out pairs, on tiny runs."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app.evaluate import cells, mode as evaluate
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.data import small_sets
from diffusion_jax.metrics import likelihoods, losses, scoring
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import ModelMetric, SampleMetric, Score
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from tests.app.conftest import (
  DIGITS,
  arrays_of,
  kept,
  of_run,
  printed_by,
  refused,
  smoke,
  trial,
  untrained,
)
from tests.app.fields import within

QUICK = within('evaluation', num_images=12, batch_size=8)
QUICK |= within('evaluation.elbo', num_steps=5)
ODE = {'evaluation.metrics': 'ode', 'evaluation.ode.tolerance': 0.1}


def run_mode(workdir, **changes):
  MODES['evaluate'](smoke(**changes), str(workdir))


def result(workdir, name):
  path = kept(workdir / 'evaluation', name) / 'result.json'
  return json.loads(path.read_text())


def parts(workdir, name):
  [folder] = kept(workdir / 'evaluation', name).glob('result*.parts')
  return {path.name: arrays_of(folder, path.stem, '.') for path in sorted(folder.glob('*.npz'))}


@pytest.fixture(scope='module')
def printed(run):
  """Returns what an evaluation of the bound prints."""
  return printed_by(lambda: run_mode(run, **QUICK))


def test_the_parts_of_the_bound_add_up(run, printed):
  found = result(run, 'elbo-test')
  assert found['examples'] == 12 and found['split'] == 'test'
  total = found['prior'] + found['diffusion'] + found['reconstruction']
  bits = found['metrics']['elbo']
  assert_allclose(bits['value'], total, rtol=1e-5)
  assert_allclose(sum(found['terms']) + found['prior'], total, rtol=1e-5)
  assert len(found['terms']) == len(found['rate']) == 5
  assert_allclose(found['rate'][0], found['prior'])
  assert_allclose(found['rate'][-1] + found['terms'][0], total, rtol=1e-5)
  value, error = f'{bits["value"]:.5g}', f'{bits["error"]:.3g}'
  assert f'{value} +- {error} bits/dim' in ' '.join(printed.split())
  assert 'L_T ' in printed and 'L_0 ' in printed
  for name in ('terms', 'rate_distortion'):
    with Image.open(kept(run / 'evaluation', 'elbo-test') / f'{name}.png') as image:
      assert image.size[0] > 300


def test_the_loss_is_beside_those_of_exact_denoisers(run):
  """Losses of exact denoisers depend on the training examples, whose sum is in the settings."""
  fields = within('evaluation', num_images=12, batch_size=8, metrics='loss', loss__draws=2)
  text = printed_by(lambda: run_mode(run, **fields))
  found = result(run, 'loss-test')
  assert found['examples'] == 12 and {'train', 'examples'} <= {*found['settings']['read']}
  assert {*found['losses']} <= {set + x for set in losses.SETS for x in losses.ABOUT}
  value = {line: x['all']['value'] for line, x in found['losses'].items()}
  assert value['linear'] < 0.5 < value['nothing_learnt'] and value['loss'] > 0.5
  assert f'loss {value["loss"]:.5g} +- ' in ' '.join(text.split())


def test_the_bound_is_that_of_the_network(run, printed):
  """The library's bound of the first two images, in bits, is the same."""
  config = smoke(**QUICK)
  model: Any = make_model(config, RunFolder.at(run))
  params, _ = weights.restore(model)
  x0, labels = small_sets.digits('test').read(np.arange(2)).values()
  root = stream(config.evaluation.seed, 'metrics')
  root = jax.random.fold_in(root, zlib.crc32(b'elbo'))
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(np.arange(2))
  nll = lambda x0, last: dj.reconstruction_nll(x0, last, 17)
  bound = jax.jit(
    lambda keys, x0, labels: dj.variational_bound(
      keys,
      model.plan(params).step_function({'label': labels}),
      model.noisy.schedule(),
      x0,
      num_steps=5,
      decoder=nll,
    )
  )(keys, DIGITS.x.encode(x0), labels)
  measured = parts(run, 'elbo-test')['00000000.npz']
  for name in ('total', 'prior', 'reconstruction'):
    assert_allclose(measured[name][:2], bound[name] / (64 * np.log(2)), rtol=1e-4, atol=1e-9)


def certain_elbo(num_steps: int = 2):
  """Returns a user's metric: the bound of a decoder that is always right."""
  decoder = lambda x0, last, num_levels: jnp.zeros(len(x0))
  return likelihoods.elbo(decoder, num_steps)


@pytest.mark.slow
def test_a_user_has_metrics_of_real_images_and_decoders(run):
  metric = {'evaluation.metrics': f'{__name__}:certain_elbo'}
  run_mode(run, **metric, **{'evaluation.num_images': 3})
  scores = result(run, 'certain_elbo-test')
  assert scores['reconstruction'] == 0.0 < scores['diffusion']
  assert len(scores['terms']) == 2
  assert_allclose(scores['terms'][0], 0.0, atol=1e-6)


def brightness(factor: float = 1.0) -> ModelMetric:
  """Returns a metric that reads the images and no weights."""
  measure = lambda params, keys, x, cond: {'x': factor * x.mean(axis=(1, 2, 3))}
  compute = lambda arrays: [Score('brightness', Estimate(float(arrays['x'].mean())))]
  return ModelMetric(lambda model: measure, compute)


GREY = {'evaluation.metrics': f'{__name__}:brightness', 'evaluation.num_images': 12}


def test_another_evaluation_is_another_file(run):
  """Other settings give another file, unless the user named the file: then they are refused."""
  mine = GREY | {'evaluation.name': 'mine'}
  run_mode(run, **mine)
  for change, message in (
    ({'evaluation.brightness.factor': 4}, 'brightness.factor is 1.0, 4.0 now. Delete it, or'),
    ({'sampling.weights': 'raw'}, r'weights is \d+, \d+ now.* another --config.evaluation.name'),
  ):
    message = f'brightness-test-mine/result.json has other settings: .*{message}'
    refused(message, run_mode, run, **mine | change)
  run_mode(run, **GREY | {'sampling.weights': 'raw'})
  assert [*(run / 'evaluation').glob('brightness-test-weights=raw-*/result.json')]


def test_a_finished_evaluation_is_of_its_data(tmp_path):
  """Other examples in the same file make another evaluation, even after one has ended."""
  path, pictures = tmp_path / 'x.npz', small_sets.digits('test')
  x = pictures.x[:32] * 15
  np.savez(path, x=x, labels=pictures.label[:32])
  data = within('data', 'npz', path=str(path), num_classes=10)
  data |= within('data', test_fraction=0.5)
  config = smoke(**data, **GREY)
  run = untrained(config, tmp_path / 'run')
  for _ in range(2):
    MODES['evaluate'](config, run)
  [first] = (run / 'evaluation').iterdir()
  np.savez(path, x=255 - x, labels=pictures.label[:32])
  MODES['evaluate'](config, run)
  [second] = {*(run / 'evaluation').iterdir()} - {first}
  values = [json.loads((x / 'result.json').read_text())['metrics'] for x in (first, second)]
  grey = [x['brightness']['value'] for x in values]
  assert_allclose(grey[0], -grey[1], rtol=1e-5)


def test_a_network_with_one_noisy_level_has_no_order_gap(run):
  refused(
    r'^config.evaluation.order_gap: .*one level for all that is noisy.*leave order_gap out$',
    run_mode,
    run,
    **{'evaluation.metrics': 'order_gap'},
  )


@pytest.mark.slow
def test_the_order_gap_of_a_run_whose_neighbours_share_levels(tmp_path):
  """The gaps are the differences of the losses, which are of the same examples."""
  order_gap = within('evaluation', metrics='order_gap', num_images=6, order_gap__num_times=2)
  config = trial('rollout', **{'objective.levels.size': 8}, **order_gap)
  run = untrained(config, tmp_path / 'run')
  MODES['evaluate'](config, run)
  found = result(run, 'order_gap-test')
  losses = {name: x['value'] for name, x in found['orders'].items()}
  assert all(np.isfinite(x) and x > 0.0 for x in losses.values())
  for name in ('left_to_right', 'right_to_left'):
    gap = found['metrics'][f'order_gap_{name}']
    assert_allclose(gap['value'], losses[name] - losses['together'], rtol=1e-4, atol=1e-5)
    assert gap['error'] > 0.0 and '95 %: ' in gap['note']


def test_what_is_not_a_number_is_not_written(run, monkeypatch):
  """The solver returns nan after too many steps."""
  lost = lambda key, denoise, schedule, x, **_: (jnp.full(len(x), jnp.nan), x)
  monkeypatch.setattr(dj, 'log_likelihood', lost)
  three = {'evaluation.num_images': 3, 'evaluation.name': 'x2'}
  message = 'ode is nan on images 0..2: try a larger'
  refused(message, run_mode, run, **ODE, **three)
  assert not parts(run, 'ode-test-x2')


@pytest.fixture(scope='module')
def moons(tmp_path_factory):
  few = within('data', num_examples=100, num_test=16)
  few |= {'sampling.checkpoint': 'latest', 'training.checkpoints.best': None}
  workdir = tmp_path_factory.mktemp('pairs') / 'run'
  return untrained(trial('two_moons', **few), workdir)


def run_of(moons, **fields):
  """Returns the run with few pairs."""
  few = within('evaluation', metrics='density_coverage', num_pairs=3)
  few |= within('evaluation', draws_per_pair=2, batch_size=4)
  return Run.open(of_run(moons, **few | fields), RunFolder.at(moons))


class Seen(list):
  """A metric of pairs, and the arrays that it was given."""

  def compute(self, samples, reference):
    self.append((samples, reference))
    return []

  def score(self, run):
    metric = SampleMetric({}, ('draws', 'truth', 'context', 'log_q'), self.compute)
    scored = [scoring.Scored('density_coverage', metric)]
    fields = cells.fields_of(run.model, 'density_coverage', scored)
    cell = cells.Cell('density_coverage', scored, run.model, fields)
    evaluate.score_pairs(run, [cell], {})


@pytest.fixture
def draws(monkeypatch, tmp_path):
  """Draws from a normal distribution, instead of by the network."""
  drawn = np.random.default_rng(0).normal(0.0, 0.3, (6, 2)).astype(np.float32)

  def draw(run, config, rows):
    settings = {'sampling': {'checkpoint': 0}, 'draws': drawn.tolist()}
    np.savez(tmp_path / 'samples.npz', arr_0=drawn, settings=provenance.as_array(settings))
    return tmp_path / 'samples.npz'

  monkeypatch.setattr(evaluate, 'draw', draw)
  return drawn.reshape(3, 2, 2)


def test_densities_are_of_their_own_pair(moons, draws, monkeypatch):
  """Densities of N(standardised context, 1/4) are kept for the same draws and settings."""
  seen, folders, run = Seen(), [], run_of(moons)
  encode, spread = run.model.facts.x.encode, 0.5
  log_q = lambda x, context: -0.5 * np.sum(np.square((encode(x) - context) / spread), axis=-1)

  def arrays_of(measure, name, params, read, count, **how):
    folders.append(how['folder'])
    x, cond = read(np.arange(count))
    return {'nats': -log_q(x, cond['context']) / 2}  # a dimension

  monkeypatch.setattr(evaluate.real_images, 'arrays_of', arrays_of)
  seen.score(run)
  samples, reference = seen[0]
  pairs = datasets.source_of(run.model.config, 'test').read(np.arange(3))
  assert_array_equal(reference['context'], pairs['context'])
  assert_array_equal(reference['truth'], pairs['x'])
  assert_array_equal(samples['draws'], draws)
  context = run.model.facts.context.encode(pairs['context'])
  assert_allclose(reference['log_q'], log_q(pairs['x'], context), rtol=1e-6)
  assert_allclose(samples['log_q'], log_q(draws, context[:, None]), rtol=1e-6)
  for change, shift in ({}, 0.0), ({'evaluation.batch_size': 3}, 0.0), ({}, 1.0):
    draws += shift
    seen.score(run_of(moons, **change))
  first, same, *others = folders
  assert first == same and len({first, *others}) == 3
