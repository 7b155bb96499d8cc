"""Numbers side by side are of the same data, conditions and draws.

Losses of exact denoisers are compared with literal float64 transcriptions at the
draws of the network's own loss, for all that a network may read. Planted
faults that this catches: `floors._group` is always the last row (the class is not
read); a row of training examples is filed under the class of a held-out image
(`'training_label'` of `batch` made before `fitted.rows`); conditions are not dropped
in the losses that a training prints (`noisy.trained(test=True)`); the line of a
training loss is on held-out examples; `held_out_batches` is 1 without training.held_out;
`metrics.losses` prints the term of `floors.metric_of` as `loss`; `infinite_floors` is ().
"""

import dataclasses
import functools
import json
import operator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.diffusion.model import objective_of
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import floors as of_training
from diffusion_jax.app.train.hooks import evaluating
from diffusion_jax.core import losses, parametrization
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.declared import declared_by
from diffusion_jax.metrics import estimates, losses as metric
from diffusion_jax.posteriors import particles
from diffusion_jax.report import results
from diffusion_jax.report.record import Record
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.runtime.streams import stream
from diffusion_jax.testing import floors, oracles
from diffusion_jax.training.loss_aware import init_loss_history
from diffusion_jax.training.objectives import Context, denoising, hybrid, make_condition, of_each
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_eval_step
from tests.app.conftest import normal_params, smoke, trial
from tests.app.fields import within
from tests.rows import slow

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
TIMES = losses.step_times(1000)
# The row by default has classes and `memorised`; a training has a context, below.
READS = [slow(()), ('label',), slow(('context',)), slow(('label', 'context'))]


# -- literal transcriptions ----------------------------------------------------


def linear(xt, alpha, sigma, c, x, context):
  """The regression of x_0 on (x_t, c) by the joint covariance of a training set."""
  d, p = x.shape[1], context.shape[1]
  both = np.cov(np.concatenate([x, context], axis=1).T, bias=True).reshape(d + p, d + p)
  across = np.concatenate([alpha * both[:d, :d], both[:d, d:]], axis=1)
  seen = both * 1.0
  seen[:d, :d] = alpha**2 * both[:d, :d] + sigma**2 * np.eye(d)
  seen[:d, d:], seen[d:, :d] = alpha * both[:d, d:], alpha * both[d:, :d]
  apart = np.concatenate([xt - alpha * x.mean(axis=0), c - context.mean(axis=0)])
  return x.mean(axis=0) + across @ np.linalg.pinv(seen) @ apart


def memorised(xt, alpha, sigma, c, x, context):
  """The mean of a training set given x_t, the largest logit subtracted before the division."""
  logits = -((xt - alpha * x) ** 2).sum(axis=1) / 2
  w = np.exp((logits - logits.max()) / sigma**2)
  return w @ x / w.sum()


LITERAL = {'linear': linear, 'memorised': memorised}


def x0_of(line, xt, level, cond, train):
  """Returns the float64 x_0 of a line, [B, D], of the training examples with these conditions."""
  x, rows = train['x'].reshape(len(train['x']), -1).astype(np.float64), []
  for i in range(len(xt)):
    read = {name: a[i] for name, a in cond.items() if not ('drop' in cond and cond['drop'][i])}
    context, c = np.zeros((len(x), 0)), np.zeros(0)
    if 'context' in read:
      context, c = train['context'].astype(np.float64), read['context']
    here = train['label'] == read['label'] if 'label' in read else np.full(len(x), True)
    rows.append(
      LITERAL[line](xt[i], float(level.alpha[i]), float(level.sigma[i]), c, x[here], context[here])
    )
  return np.stack(rows)


def errors(line, draws, train):
  """Returns |x_0 - estimate|^2 / D of each row of an objective's draws."""
  draws = jax.device_get(draws)
  x0 = draws.x0.reshape(len(draws.x0), -1).astype(np.float64)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in draws.level[1:])
  xt = alpha * x0 + sigma * draws.eps.reshape(x0.shape)
  return ((x0 - x0_of(line, xt, draws.level, draws.cond, train)) ** 2).mean(axis=1)


SLOPE = np.array([[[0.5, 0.0, 0.2], [0, -0.4, 0]], [[-0.8, 0.3, 0], [0, 0.5, 0.5]]])


def two_classes(n=300, seed=0):
  """Two classes of Gaussians of unequal number, mean and covariance, with a context."""
  rng = np.random.default_rng(seed)
  label = (np.arange(n) % 3 == 0).astype(np.int32)
  context = rng.normal(size=(n, 2)) + label[:, None]
  x = np.einsum('np,npd->nd', context, SLOPE[label]) + np.where(label, 2.0, -1.0)[:, None]
  x += rng.normal(size=(n, 3)) * np.where(label, 0.3, 0.8)[:, None]
  x, context = x.astype(np.float32), context.astype(np.float32)
  return {'x': x, 'label': label, 'context': context}


def network(reads, dropout=0.0, **options) -> Any:
  never = lambda *args, **kwargs: pytest.fail('an exact denoiser calls the network')
  condition = make_condition('label' in reads, dropout, context='context' in reads)
  return dj.Network(never, lambda level: level.t, condition=condition, **options)


@pytest.mark.parametrize('reads', READS)
def test_each_line_is_its_transcription_at_the_draws_of_the_loss(reads, key):
  """Every parametrization and objective is tried, with a third of the conditions dropped."""
  train, batch = two_classes(), two_classes(24, seed=1)
  fitted = floors.fit(train['x'], **{name: train[name] for name in reads})
  exact = lambda **options: floors.exact(network(reads, 1 / 3, **options))
  of_x0 = {'weight': lambda level: 1.0}  # The loss of each is the error of x_0.
  made = {
    kind: denoising(exact(parametrization=kind), SCHEDULE, times=TIMES, **of_x0)
    for kind in parametrization.KINDS
  }
  made['hybrid'] = hybrid(exact(learned_variance=True), SCHEDULE, schedule_steps=1000, **of_x0)

  @jax.jit
  def compute(fitted, batch):
    draws, _ = made['eps'].draw(key, batch, Context())

    def of_each_kind(fitted):
      of = lambda objective: of_each(objective, {'network': fitted}, Context(), key, batch)
      found = {kind: of(objective) for kind, objective in made.items()}
      return {kind: metric.values_of(x, floors.metric_of(x)) for kind, x in found.items()}

    return draws, floors.by_line(of_each_kind, fitted)

  draws, found = compute(fitted, batch)
  assert {*found} == {*fitted.lines}
  assert ('memorised' in fitted.lines) == ('context' not in reads)
  for line in LITERAL.keys() & {*fitted.lines}:
    right = errors(line, draws, train)
    for kind, values in found[line].items():
      assert_allclose(values['total'], right, rtol=1e-3, atol=1e-4 * right.max(), err_msg=kind)


# -- exact losses that a training prints ---------------------------------------

SEEN = within('training', held_out__every=2, held_out__batches=2, verbose=True)
BY_CLASS = {'conditioning.labels': True, 'conditioning.dropout': 0.5}
SNR = lambda alpha, sigma: (alpha / sigma) ** 2  # the weight of x_0 by which eps has 1
# Configs of trainings by what their networks read, and the weights of the error of x_0.
TRAININGS = {
  'nothing': (lambda: smoke(**SEEN), SNR),
  'class': (lambda: smoke(**SEEN, **BY_CLASS), SNR),
  'context': (lambda: trial('regression', **SEEN), lambda alpha, sigma: 1 / sigma**2 + 1),
  'best': (lambda: smoke(**within('training', checkpoints__best='lowest', verbose=True)), SNR),
  'loss_aware': (lambda: smoke(**SEEN, **within('objective', 'hybrid', loss_aware=True)), SNR),
}
WORDS = {
  'a text': ('shapes_text', ''),
  'a picture': ('digits', 'inpainting'),
}


def model_of(config, workdir):
  model = make_model(config, RunFolder.at(workdir))
  facts = datasets.with_contents(model.facts, datasets.source_of(model.config))
  return make_model(config, RunFolder.at(workdir), facts)


def objective(model, network, test):
  made = network(model.noisy.trained(test=test))
  return objective_of(model.noisy, lambda: None, test=True, network=made)


def measured_as_the_network(model, params):
  """Returns the log of the held-out losses of an exact denoiser, in place of the network."""
  history = init_loss_history(1000)._replace(probs=jnp.arange(1.0, 1001.0) / 500_500)
  fields = dict.fromkeys(TrainState._fields, ()) | {'step': jnp.array(7)}
  state = TrainState(**fields | {'ema_params': {'network': params}, 'objective_state': history})
  of_exact = lambda test: objective(model, floors.exact, test)
  log = SimpleNamespace(results={}, notes={})
  evaluating(dataclasses.replace(model, objective=of_exact), make_mesh(), (2,)).act(
    2, state, {}, log
  )
  return log


# A network that reads nothing has the mechanism of one that reads the class, and what a hybrid
# objective prints beside its loss is compared in an evaluation, below.
AS_OTHERS = 'nothing', 'loss_aware'


@pytest.mark.parametrize('reads', [slow(x) if x in AS_OTHERS else x for x in TRAININGS])
def test_a_held_out_loss_of_an_exact_denoiser_is_what_is_printed_beside_it(reads, tmp_path, capsys):
  """The training's own hook measures an exact denoiser and prints the exact losses and quarters."""
  config, weight = TRAININGS[reads]
  model = model_of(config(), tmp_path)
  fitted = floors.of_source(datasets.source_of(model.config), model.facts, model.noisy.reads)
  log = measured_as_the_network(model, fitted.of('linear'))
  content = json.loads((tmp_path / of_training.FILE).read_text())
  split = f'{content["settings"]["split"]}_'
  names = [name for name in content['losses'] if name.startswith(split)]
  assert reads == 'loss_aware' or {*names} == {n for n, x in log.results.items() if x == x}
  assert 'test_simple' in names or reads != 'loss_aware'
  table = capsys.readouterr().out
  for name in names:
    lines = content['losses'][name]
    assert_allclose(log.results[name], lines['linear']['value'], rtol=1e-4)
    shown = [metric.shown(metric.Estimate(**x)) for x in lines.values()]
    assert all(x in log.notes[name] for x in shown[1:]) and all(x in table for x in shown)

  # The exact losses for the training loss are on training examples, with its conditions.
  size, own = content['settings']['batch_size'], objective(model, lambda x: x, False)
  order = np.random.default_rng(0).permutation(len(fitted.examples))
  order = np.resize(order, (content['settings']['batches'], size))
  rows = jax.jit(lambda key, index: own.draw(
    key, fitted.rows(index, model.facts.x.shape), Context(state=own.init()))[0])  # fmt: skip
  train = jax.device_get(fitted.rows(np.arange(len(fitted.examples)), model.facts.x.shape))
  (name,) = (n for n in content['losses'] if n.count('_') == 0)
  for line in LITERAL.keys() & {*fitted.lines}:
    right = []
    for i, index in enumerate(order):
      key = jax.random.fold_in(jax.random.fold_in(stream(0, 'test_loss'), i), 1)
      draws = jax.device_get(rows(key, index))
      alpha, sigma = (np.asarray(a, np.float64) for a in draws.level[1:])
      right.append((weight(alpha, sigma) * errors(line, draws, train)).mean())
    found = content['losses'][name][line]['value']
    assert_allclose(found, np.mean(right), rtol=2e-3)


@pytest.mark.parametrize('reads', WORDS)
def test_words_are_printed_where_no_denoiser_reads_what_the_network_does(reads, tmp_path, capsys):
  name, argument = WORDS[reads]
  model = make_model(trial(name, argument, **SEEN), RunFolder.at(tmp_path))
  assert of_training.beside(model, make_mesh(), 'test', 8, pytest.fail)() == {}
  words = f'no floor: the network reads {reads}'
  assert capsys.readouterr().out.splitlines()[-1] == words
  unread: Any = None
  assert metric.loss().fit(model.measured, unread) == {}
  assert capsys.readouterr().out.strip() == words


# -- the loss that an evaluation prints ------------------------------------------

# The objectives with floors, by their names in the table and a field.
WITH_FLOORS = {
  ('denoising', ''): {},
  ('denoising', 'uncertainty'): {'objective.uncertainty': 'fourier'},
  ('hybrid', ''): within('objective', 'hybrid'),
  ('hybrid', 'vlb_weight'): within('objective', 'hybrid', vlb_weight=1.0),
  ('hybrid', 'loss_aware'): within('objective', 'hybrid', vlb_weight=0.1, loss_aware=True),
  ('vdm', ''): {'objective': 'vdm'} | within('schedule', 'learned', gamma='fixed'),
}


def test_each_objective_with_floors_is_here():
  table = smoke().schema.tables['objective']
  denoising = {name for name, make in table.items() if declared_by(make).denoises}
  assert denoising == {name for name, _ in WITH_FLOORS}


# Each has all terms of its objective; the other rows have fewer. `denoising` prints one term, by
# the mechanism of both.
MOST = (('hybrid', 'loss_aware'),)
EACH = [
  pytest.param(x, id='-'.join(x)) if x in MOST else slow(x, id='-'.join(x)) for x in WITH_FLOORS
]


@pytest.mark.parametrize('name', EACH)
def test_an_evaluation_prints_the_held_out_loss_of_the_training(name, tmp_path):
  """At equal draws, by the names of metrics.jsonl; the term with floors is another line."""
  model = model_of(smoke(**WITH_FLOORS[name]), tmp_path)
  measured: Any = model.measured
  count, source = 5, datasets.source_of(model.config, 'test')
  read = source.read(np.arange(count))
  x, cond = model.facts.x.encode(read['x']), {'label': read['label']}
  keys = jax.random.split(jax.random.key(3), count)
  measure = metric.loss(draws=1).measure(measured)
  evaluate = make_eval_step(model.objective(test=True))
  state = TrainState(**dict.fromkeys(TrainState._fields, ()))

  @jax.jit
  def run(params):
    def of_row(row):
      (first, *_), batch = jax.random.split(row[0], 3), jax.tree.map(lambda a: a[None], row[1])
      draw = jax.random.split(first, 1)[0]
      return evaluate(state._replace(ema_params=params), batch, draw)

    return measure(params, keys, x, cond), jax.lax.map(of_row, (keys, {'x': x} | cond))

  arrays, trained = jax.device_get(run(normal_params(model, deviation=0.1)))
  scores = {score.name: score.estimate.value for score in metric.loss().compute(arrays)}
  assert {*scores} == {'loss', floors.metric_of(trained)}
  for score, value in scores.items():
    mean = trained[score]
    assert_allclose(value, mean.total.sum() / mean.count.sum(), rtol=1e-5)


# -- exact losses that are infinite --------------------------------------------


def losses_of_both():
  lines = [line for line in metric.ABOUT if line not in metric.TERMS]
  return [f'{where}{line}' for where in metric.SETS for line in lines]


STRAIGHT = within('objective', weight='flow', times='uniform')
STRAIGHT |= {'schedule': 'flow', 'parametrization': 'flow', 'noise_input': 'time'}


def test_a_floor_that_is_infinite_is_called_none(tmp_path, capsys):
  """On held-out examples, of all t and of the quarter next to the data."""
  model = model_of(smoke(**SEEN, **STRAIGHT), tmp_path)
  fitted = floors.of_source(datasets.source_of(model.config), model.facts, model.noisy.reads)
  notes = measured_as_the_network(model, fitted.of('linear')).notes
  words = f'memorised {floors.INFINITE}'
  assert words in capsys.readouterr().out
  losses = json.loads((tmp_path / of_training.FILE).read_text())['losses']
  for name, lines in losses.items():
    is_infinite = name in ('test_loss', 'test_loss_quarter_1')
    assert (lines['memorised']['value'] is None) == is_infinite
    assert ('memorised examples none' in notes[name]) == is_infinite
    assert lines['linear']['value'] and 'linear denoiser none' not in notes[name]

  measured, train = metric.loss(draws=1), datasets.source_of(model.config)
  read, keys = train.read(np.arange(40)), jax.random.split(jax.random.key(0), 40)
  of_train = measured.fit(model.measured, train)
  assert words in capsys.readouterr().out
  params = normal_params(model) | of_train
  x, cond = model.facts.x.encode(read['x']), {'label': read['label']}
  arrays = jax.device_get(jax.jit(measured.measure(model.measured))(params, keys, x, cond))
  scores = {score.name for score in measured.compute(arrays)}
  assert scores == {*losses_of_both()} - {'memorised'}
  found = metric.report(arrays, tmp_path)['losses']
  json.dumps(found, allow_nan=False)
  infinite = {part for part, x in found['memorised'].items() if x['value'] is None}
  assert {*found['memorised']} - infinite == {*metric.QUARTERS[1:]} and 'class #3' in infinite
  assert all(x['value'] for line in {*found} - {'memorised'} for x in found[line].values())
  (table, *_) = results.parts(Record('a', {}, {}, [], [('loss-test', {'losses': found})], []))
  (row,) = (row for row in table.rows if row[0] == 'memorised')
  assert row[1:3] == ['none', 'none'] and 'none' not in row[3:]
  first = capsys.readouterr().out.splitlines()[2]
  assert first.split()[0] == 'all' and first.split()[-1] == 'none'


# -- exact losses that an evaluation prints ------------------------------------


def optimum(reads):
  """Returns the law of two_classes: mean [K, D], slope [K, P, D], covariance of the rest."""
  slope, mean, std = SLOPE, np.array([[-1.0] * 3, [2.0] * 3]), np.array([0.8, 0.3])
  rest = std[:, None, None] ** 2 * np.eye(3)
  if 'context' in reads:
    return mean, slope, rest
  # The context is N(label, I).
  mean = mean + slope.sum(axis=1) * np.arange(2)[:, None]
  return mean, 0.0 * slope, rest + np.einsum('kpd,kpe->kde', slope, slope)


# Each line is its transcription, above.
@pytest.mark.slow
@pytest.mark.parametrize('reads', [(), ('label',), ('context',), ('label', 'context')])
def test_no_network_is_below_the_least_loss(reads):
  """The best network of Gaussian classes, by its closed form; also for each class.

  A network without the class has data of one class.
  """
  train, test = ({n: a[d['label'] == 1] for n, a in d.items()} if 'label' not in reads else d
                 for d in (two_classes(3000), two_classes(600, 1)))  # fmt: skip
  mean, slope, rest = optimum(reads)
  values, axes = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(rest))

  def best(params, x, noise, cond, *, key=None):
    level = SCHEDULE(noise)
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    k = cond['label'] if 'label' in reads else jnp.ones(len(x), int)
    m = jnp.asarray(mean, jnp.float32)[k]
    if 'context' in reads:
      m += jnp.einsum('bp,bpd->bd', cond['context'], jnp.asarray(slope, jnp.float32)[k])
    gain = alpha * values[k] / (alpha**2 * values[k] + sigma**2)
    apart = jnp.einsum('bd,bde->be', x - alpha * m, axes[k])
    x0 = m + jnp.einsum('be,bde->bd', gain * apart, axes[k])
    return (x - alpha * x0) / sigma

  given = dataclasses.replace(network(reads), apply=best)

  def losses_of(exact=False):
    objective = denoising(floors.exact(given) if exact else given, SCHEDULE, times=TIMES)
    return lambda params, key, batch: objective(params, Context(), key, batch)[1][0]

  source = ArraySource(train['x'], train['label'], 2, context=train['context'])
  model: Any = SimpleNamespace(
    reads=reads, facts=source.facts, losses=losses_of, infinite_floors=()
  )
  measured = metric.loss(draws=8)
  params = {'network': (), **measured.fit(model, source)}
  keys = jax.random.split(jax.random.key(0), len(test['x']))
  cond = {name: test[name] for name in ('label', 'context')}
  arrays = jax.device_get(jax.jit(measured.measure(model))(params, keys, test['x'], cond))

  level = jax.jit(SCHEDULE)(np.arange(1, 1001) / 1000)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in level[1:])
  classes = np.unique(test['label'])
  least = {}
  for k in classes:
    v = np.linalg.eigvalsh(rest[k])
    least[k] = (alpha**2 * v / (alpha**2 * v + sigma**2)).mean()
  for k in (None, *classes):
    here, there = ((arrays[n] == k) | (k is None) for n in ('label', 'training_label'))
    for line in 'loss', 'linear', 'training_loss':
      prefix, rows = ('training_', there) if line.startswith('training_') else ('', here)
      right = np.mean([least[c] for c in arrays[f'{prefix}label'][rows]])
      value, error = estimates.mean(arrays[f'{line} total'][rows])
      assert error < 0.1 * right
      assert abs(value - right) < 4.5 * error, (k, line)
    above = estimates.mean(arrays['linear total'][here] - arrays['loss total'][here])
    assert above.value > -4.5 * above.error, k
    if 'context' not in reads:
      both = (arrays[f'training_{line} total'][there] for line in ('loss', 'memorised'))
      above = estimates.mean(operator.sub(*both))
      assert above.value > -4.5 * above.error, k


# -- at low noise --------------------------------------------------------------

POINTS = np.random.default_rng(0).uniform(-1, 1, (100, 8, 8, 1)).astype(np.float32)


@functools.cache
def softmaxes():
  """Returns functions of x_t and sigma whose weights are softmaxes of squares over sigma^2."""
  few = POINTS[:20].reshape(20, 64)[:, :5]
  mixture = oracles.mixture(np.ones(20), few, np.stack([1e-12 * np.eye(5)] * 20))
  memorised, by_class = (
    floors.fit(POINTS, label).of('memorised') for label in (None, np.arange(100) % 3)
  )

  def log_weights(xt, sigma):
    xt = xt.reshape(len(xt), -1)
    return -(((xt[:, :33] - POINTS.reshape(100, -1)[: len(xt), :33]) / sigma) ** 2)

  of_points = lambda xt: xt.reshape(len(xt), -1)[:, :5]
  classes = lambda xt: {'label': jnp.arange(len(xt)) % 3}
  return {
    'memorised': lambda xt, level: floors.estimate(memorised, xt, level)[0],
    'of the class': lambda xt, level: floors.estimate(by_class, xt, level, classes(xt))[0],
    'denoise': lambda xt, level: mixture.denoise(of_points(xt), level).x0,
    'class_log_prob': lambda xt, level: mixture.class_log_prob(of_points(xt), level),
    'effective_number': lambda xt, level: particles.effective_number(log_weights(xt, level.sigma)),
    '_log_mean': lambda xt, level: particles._log_mean(log_weights(xt, level.sigma)),
  }


@pytest.mark.parametrize('name', softmaxes())
def test_no_weight_is_nan_at_low_noise(name):
  """XLA may compute a logit twice, and of 1e10 two roundings differ by 1000."""
  schedule, rng = dj.RectifiedFlowSchedule(), np.random.default_rng(1)
  function = jax.jit(lambda xt, t: softmaxes()[name](xt, schedule(t)))
  for size in 1, 2, 16:
    for t in 1e-3, 3e-5, 1e-6:
      xt = (1 - t) * POINTS[:size] + t * rng.normal(size=POINTS[:size].shape)
      found = np.asarray(function(xt.astype(np.float32), np.float32(t)))
      assert not np.isnan(found).any(), (size, t)
      if name in ('memorised', 'of the class'):
        assert_allclose(found, POINTS[:size], atol=1e-4)
