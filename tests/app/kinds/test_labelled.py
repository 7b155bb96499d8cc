"""Pictures with labels through the program: what is drawn, given or integrated out is one word.

The network of most tests has parameters of its own choice: its label is drawn from a law that
depends on x, and its x is what the label says, so that every word has a law that is known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds.labelled import GRIDS
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.metrics import of_labelled
from diffusion_jax.runtime.files import read_json
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, of_run, params_of, refused, trial, untrained
from tests.app.fields import typed, within

COUNT = 40
FEW = within('sampling', num_samples=COUNT, batch_size=COUNT, num_steps=3)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'joint'
  return untrained(trial('digits_joint', small=True, **FEW), workdir, 0.1)


def model_of(run, **fields) -> Any:
  return make_model(of_run(run, **fields), RunFolder.at(run))


def sample(run, word, **fields):
  name = {'sampling.name': f'{word}{len(fields)}', 'sampling.drawn': word}
  MODES['sample'](of_run(run, **name | fields), run)
  return arrays_of(run, name['sampling.name'])


def test_each_word_says_what_is_drawn_given_or_at_noise(run):
  """Grids alone: clean throughout, at noise throughout, or falling, in turn."""
  levels = {n: dj.CosineSchedule()(jnp.linspace(1.0, 0.0, 4)) for n in ('x', 'label')}

  def word(level):
    t = np.asarray(level.t)
    return 'given' if not t.any() else 'noise' if (t == 1.0).all() else 'drawn'

  found = {name: [word(grids(levels)[n]) for n in ('x', 'label')] for name, grids in GRIDS.items()}
  both = ['drawn', 'drawn']
  assert found == {
    **dict.fromkeys(('together', 'label_first', 'x_first'), both),
    'x_given_label': ['drawn', 'given'],
    'label_given_x': ['given', 'drawn'],
    'x': ['drawn', 'noise'],
    'label': ['noise', 'drawn'],
  }
  for first, second in (('label', 'x'), ('x', 'label')):
    grids = {n: np.asarray(a.t) for n, a in GRIDS[f'{first}_first'](levels).items()}
    assert not grids[first][3:].any() and (grids[second][:4] == 1.0).all()


def test_what_is_given_is_kept_and_what_is_not_drawn_is_not_written(run):
  fields = {'sampling.labels': '3,7'}
  found = sample(run, 'x_given_label', **fields)
  assert_array_equal(found['labels'], np.resize([3, 7], COUNT))
  assert found['arr_0'].std() > 0.0
  given = sample(run, 'label_given_x')
  model = model_of(run)
  x = model.facts.x
  held_out = datasets.unseen(model.config).read(np.arange(COUNT))['x']
  assert_array_equal(given['arr_0'], x.decode(x.encode(held_out)))
  assert 4 < len({*given['labels'].tolist()}) <= 10 and given['labels'].max() < 10
  assert 'labels' not in sample(run, 'x')
  alone = sample(run, 'label')
  assert len({*alone['labels'].tolist()}) > 4 and alone['arr_0'].std() == 0.0
  both = sample(run, 'together', **{'sampling.trajectory': True})
  assert both['arr_0'].std() > 0.0 and 4 < len({*both['labels'].tolist()}) <= 10


def test_pictures_of_a_file_are_given(run, tmp_path, capsys):
  path = tmp_path / 'pictures.npy'
  pictures = sample(run, 'x_first')['arr_0'][:2]
  np.save(path, pictures)
  fields = {'sampling.context': path, 'sampling.num_samples': 5}
  found = sample(run, 'label_given_x', **fields)
  assert_array_equal(found['arr_0'], np.repeat(pictures, 5, axis=0))
  np.save(path, pictures[:, :4])
  refused('shape', sample, run, 'label_given_x', **fields)
  np.save(path, pictures + 0.5)
  refused('not whole numbers from 0 to 255', sample, run, 'label_given_x', **fields)
  assert 'are read as levels' not in capsys.readouterr().out
  np.save(path, pictures // 16)
  conditions.choose(model_of(run, **{'sampling.drawn': 'label_given_x'} | fields))
  assert 'up to 15, which are read as levels from 0 to 255' in capsys.readouterr().out


def test_labels_given_pictures_are_drawn_from_the_law_of_the_network(run):
  """One label is masked, so that its law does not change on the way."""
  model = model_of(run)
  params = jax.jit(model.init)(jax.random.key(0))
  params = jax.tree.map(
    lambda a: a + 0.3 * np.random.default_rng(0).normal(size=a.shape).astype(np.float32), params
  )
  x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 8, 1)), jnp.float32)
  count = 4000
  plan = model_of(run, **{'sampling.drawn': 'label_given_x'}).plan(params)
  keys = jax.random.split(jax.random.key(1), count)
  draw = jax.jit(lambda keys: plan.film(keys, {'context': jnp.repeat(x, count, axis=0)})[2])
  shares = np.bincount(draw(keys)['labels'], minlength=10) / count
  p = np.exp(model.measured.label_logits(params, x)[0])
  assert_allclose(p.sum(), 1.0, rtol=1e-5)
  assert p.max() > 0.2 and p.min() < 0.08
  assert np.all(abs(shares - p) < 4.5 * np.sqrt(p * (1.0 - p) / count))


def test_guidance_is_by_the_label_at_noise(run):
  """x_0 = unknown + scale (known - unknown), of a network that saw no dropout of labels."""
  fields = {'sampling.drawn': 'x_given_label', 'sampling.bound': None}
  params = jax.tree.map(lambda a: a + 0.3, jax.jit(model_of(run).init)(jax.random.key(0)))
  xt = {'x': jnp.ones((2, 8, 8, 1)), 'label': jnp.array([3, 7])}
  level = {'x': dj.CosineSchedule()(0.5), 'label': dj.clean_level()}

  def x0(**more):
    return model_of(run, **fields | more).plan(params).step_function({})(xt, level)['x'].x0

  known, guided = x0(), x0(**{'sampling.guidance.scale': 3.0})
  network = model_of(run).measured.network(test=True)
  hidden = {**xt, 'label': jnp.full(2, 10)}
  noise = {**level, 'label': dj.PolynomialMasking()(1.0)}
  unknown = network.denoiser(params['network'])(hidden, noise)['x'].x0
  assert np.abs(known - unknown).max() > 1e-3
  assert_allclose(guided, unknown + 3.0 * (known - unknown), rtol=1e-4, atol=1e-4)


@pytest.fixture
def bounds(run, monkeypatch):
  """Returns (whether the network sees the label) -> nats of each order, of one of two pictures.

  Each has its own label. The network is exact, but for what it does not see.
  """
  model = model_of(run).measured
  pictures = jnp.asarray([-np.ones((8, 8, 1)), np.ones((8, 8, 1))], jnp.float32)

  def exact(sees_label):
    def apply(params, x, noise, cond, *, key=None):
      level = dj.CosineSchedule()(noise['x'] / 1000.0)
      ratio = level.alpha / jnp.maximum(level.sigma, 1e-3) ** 2
      score = jnp.clip(2.0 * ratio * x['x'].sum(axis=(1, 2, 3)), -60.0, 60.0)
      known = jnp.where(x['label'] == 1, 60.0, -60.0)
      one = jax.nn.sigmoid(jnp.where((x['label'] == 10) | (not sees_label), score, known))
      x0 = jnp.broadcast_to((2.0 * one - 1.0)[:, None, None, None], x['x'].shape)
      of = level.expand_to(x0)
      v = (of.alpha * x['x'] - x0) / jnp.maximum(of.sigma, 1e-6)
      logits = jnp.stack([-0.5 * score, 0.5 * score], axis=1)
      return {'x': v, 'label': jnp.pad(logits, ((0, 0), (0, 9)), constant_values=-1e4)}

    return lambda *args, **kwargs: joint.JointNetwork(apply, model.variables(True))

  labels = np.arange(400) % 2
  cond = {'label': jnp.asarray(labels)}
  keys = jax.random.split(jax.random.key(0), len(labels))

  def of_orders(sees_label):
    monkeypatch.setattr(type(model), 'network', lambda self, *args, **kw: exact(sees_label)())
    measure = of_labelled.joint_elbo(num_times=64).measure(model)
    return jax.device_get(jax.jit(measure)({'network': ()}, keys, pictures[labels], cond))

  return of_orders


def test_the_bound_of_pixels_and_a_label_is_the_entropy(bounds):
  """The exact network has log 2 in every order."""
  found = bounds(True)
  for nats in found.values():
    error = np.std(nats) / len(nats) ** 0.5
    assert error < 0.1 and abs(np.mean(nats) - np.log(2.0)) < 4.5 * error
  scores = {x.name: x.estimate for x in of_labelled.compute_orders(found)}
  for name in ('label_first', 'x_first'):
    gap = scores[f'order_gap_{name}']
    assert abs(gap.value) < 4.5 * gap.error


@pytest.mark.slow
def test_the_label_first_order_is_larger_where_the_label_is_not_seen(bounds):
  blind = {x.name: x.estimate for x in of_labelled.compute_orders(bounds(False))}
  gap = blind['order_gap_label_first']
  assert gap.value > 4.5 * gap.error > 0.0


def test_what_does_not_fit_is_refused_in_one_line(run):
  for words, fields in {
    'sampling.labels': {'sampling.labels': '3'},
    'set sampling.drawn=label_given_x': {'sampling.context': 'a.npy'},
    'draws no x given a label': {'sampling.drawn': 'label', 'sampling.guidance.scale': 2.0},
  }.items():
    refused(words, model_of(run, **fields).check, 'sample')
  only = {'sampling.drawn': 'label_given_x', 'evaluation.metrics': 'fid'}
  refused('draws labels alone: take accuracy', model_of(run, **only).check, 'evaluate')
  refused('which has no edits', model_of(run).check, 'edit')
  refused('labels', lambda: make_model(trial('digits_joint', data='eeg'), RunFolder.at('nowhere')))


def test_the_judge_agrees_or_not_with_labels_that_are_drawn(run):
  """`accuracy` is of the labels in the file of samples, drawn or given."""
  for word in ('together', 'x_given_label', 'label_given_x'):
    model = model_of(run, **{'sampling.drawn': word})
    assert model.draws == ('labels',)
    chosen = conditions.choose(model, 4)
    assert {*chosen.cond} == {
      'together': set(),
      'x_given_label': {'label'},
      'label_given_x': {'context'},
    }[word]


@pytest.fixture(scope='module')
def scores(run):
  """The results of one evaluation, by the names of metrics."""
  fields = typed("""
    evaluation.metrics=elbo,labels,accuracy evaluation.num_images=36 evaluation.num_generated=40
    evaluation.elbo.num_times=2 evaluation.floor=True evaluation.batch_size=36
  """)
  fields |= {'sampling.drawn': 'label_given_x'}
  MODES['evaluate'](of_run(run, **fields), run)
  paths = (run / 'evaluation').glob('*/result.json')
  return {x['metric']: x for x in map(read_json, paths)}


def test_labels_of_real_pictures_are_scored_beside_the_judges(run, scores):
  """The judge is right on nearly all real digits, which is the floor of `accuracy`."""
  floor = scores['accuracy']['floor']['accuracy_digits']
  assert floor['value'] > 0.97 and floor['error'] < 0.03
  model, params = model_of(run), params_of(run)
  first = datasets.source_of(model.config, 'test').read(np.arange(36))
  x0 = jnp.asarray(model.facts.x.encode(first['x']))
  p = np.exp(jax.jit(model.measured.label_logits)(params, x0))
  found = {name: x['value'] for name, x in scores['labels']['metrics'].items()}
  of_truth = p[np.arange(36), first['label']]
  assert_allclose(found['labels'], np.mean(p.argmax(1) == first['label']), rtol=1e-6)
  assert_allclose(found['labels_drawn'], of_truth.mean(), rtol=1e-4)
  assert_allclose(found['labels_nats'], -np.log(of_truth).mean(), rtol=1e-4)


def test_the_bound_is_said_in_each_order(scores):
  found = scores['elbo']
  assert {*found['metrics']} == {'elbo', 'order_gap_label_first', 'order_gap_x_first'}
  bounds = {name: x['value'] for name, x in found['orders'].items()}
  assert {*bounds} == {*of_labelled.ORDERS}
  for name in ('label_first', 'x_first'):
    gap = found['metrics'][f'order_gap_{name}']
    assert_allclose(gap['value'], bounds[name] - bounds['together'], rtol=1e-4)
    assert 0.0 < gap['error'] < found['metrics']['elbo']['error']


def test_a_notebook_draws_labels_too(run):
  """They are those of --mode=sample, and what `dj.sample` draws takes a dict of grids."""
  found = dj.open_run(run, drawn='label_first', checkpoint='latest')
  both = found.draw_all(COUNT)
  written = sample(run, 'label_first')
  assert_array_equal(both['labels'], written['labels'])
  assert_array_equal(both['x'], written['arr_0'])
  assert {*found.levels} == {'x', 'label'} and len(found.levels['x'].t) == 7
  pictures = both['x'][:3]
  given = dj.open_run(run, drawn='label_given_x', checkpoint='latest')
  kept = given.draw_all(3, context=pictures)
  assert_array_equal(kept['x'], pictures)
  assert kept['labels'].shape == (3,)
