"""The losses of a network and of exact denoisers of Gaussian data are their closed forms."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.losses import step_times
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.metrics import losses
from diffusion_jax.metrics.estimates import ratio
from diffusion_jax.testing import floors
from diffusion_jax.training.objectives import Context, denoising
from tests.rows import slow

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
STD = np.array([1.0, 0.3])
RNG = np.random.default_rng(0)
TRAIN = (RNG.normal(size=(3000, 2)) * STD).astype(np.float32)
TEST = (RNG.normal(size=(400, 2)) * STD).astype(np.float32)


def zero(params, x, noise, cond, *, key=None):
  return params['zero'] * x


def model() -> Any:
  network = dj.Network(zero, lambda level: level.t)

  def of(exact=False):
    used = floors.exact(network) if exact else network
    objective = denoising(used, SCHEDULE, times=step_times(1000))

    def metrics(params, key, batch):
      params = params if exact else {'network': params}
      return objective(params, Context(), key, batch)[1][0]

    return metrics

  facts = ArraySource(TRAIN).facts
  return SimpleNamespace(reads=(), facts=facts, losses=of, infinite_floors=())


@pytest.fixture(scope='module')
def arrays():
  metric = losses.loss(draws=16, examples=200)
  params = {'zero': np.float32(0.0), **metric.fit(model(), ArraySource(TRAIN))}
  keys = jax.random.split(jax.random.key(0), len(TEST))
  cond = {'label': np.arange(len(TEST)) % 2, 'image': TEST}
  return jax.device_get(jax.jit(metric.measure(model()))(params, keys, TEST, cond))


class Anew(ArraySource):
  """Examples that each epoch draws again."""

  def redrawn(self, seed, epoch):
    return ArraySource(self.x + epoch[0])


@pytest.mark.parametrize('source', [slow(ArraySource(TRAIN[:20])), Anew(TRAIN[:20])])
def test_the_calls_are_counted_and_those_on_training_examples(source, monkeypatch):
  calls = []

  def counted(params, x, noise, cond, *, key=None, apply=zero):
    jax.debug.callback(lambda x: calls.append(1), x)
    return apply(params, x, noise, cond)

  monkeypatch.setitem(globals(), 'zero', counted)
  metric, of = losses.loss(draws=3, examples=20), model()
  params = {'zero': np.float32(0.0), **metric.fit(of, source)}
  keys = jax.random.split(jax.random.key(0), 2)
  jax.jit(metric.measure(of))(params, keys, TEST[:2], {})
  jax.effects_barrier()
  assert len(calls) == 2 * metric.calls(of, source)


def test_lines_are_those_of_the_closed_forms(arrays):
  """The network predicts no noise, as 'nothing_learnt' does at the same draws."""
  for where in losses.SETS:
    both = (arrays[f'{where}{line} total'] for line in ('loss', 'nothing_learnt'))
    assert_allclose(*both, rtol=1e-6)
  found = {x.name: x.estimate for x in losses.loss().compute(arrays)}
  levels = jax.jit(SCHEDULE)(np.arange(1, 1001) / 1000)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in levels[1:])
  v = TRAIN.var(axis=0, dtype=np.float64)
  right = {'loss': 1.0, 'linear': (alpha**2 * v / (alpha**2 * v + sigma**2)).mean()}
  for name, value in right.items():
    assert found[name].error < 0.03
    assert abs(found[name].value - value) < 4.5 * found[name].error
  # The denoiser of the training set has a lower loss than the linear one on its own
  # 200 points, and a higher one on held-out points.
  assert found['training_memorised'].value < found['training_linear'].value
  assert found['linear'].value < found['memorised'].value


def test_quarters_and_classes_add_up(arrays, tmp_path, capsys):
  found = losses.report(arrays, tmp_path)['losses']
  json.dumps(found, allow_nan=False)
  counts = [arrays[f'linear count_{q}'].sum() for q in range(1, 5)]
  lines = [line for line in losses.ABOUT if line not in losses.TERMS]
  assert {*found} == {f'{where}{line}' for where in losses.SETS for line in lines}
  for line in lines:
    of = {name: x['value'] for name, x in found[line].items()}
    values = [of[name] for name in losses.QUARTERS]
    assert_allclose(np.average(values, weights=counts), of['all'], rtol=1e-5)
    assert_allclose((of['class #0'] + of['class #1']) / 2, of['all'], rtol=1e-5)
  here, training = capsys.readouterr().out.split('on training examples:\n')
  for where, printed in zip(losses.SETS, (here.partition(':\n')[2], training), strict=True):
    names, values, *_ = printed.splitlines()
    assert names.split() == lines
    values = values.replace(' ± ', '±').split()
    of_all = (losses.Estimate(*(found[f'{where}{line}']['all'][x] for x in ('value', 'error')))
              for line in lines)  # fmt: skip
    assert values == ['all', *(losses.shown(x).replace(' ± ', '±') for x in of_all)]


def test_the_error_of_a_quarter_is_that_of_its_mean():
  """The error with one draw for each image is a mean's, and it is 0 for equal losses."""
  values = RNG.normal(size=50)
  found = ratio(values, np.ones(50))
  assert_allclose(found, (values.mean(), values.std(ddof=1) / 50**0.5))
  counts = np.arange(50) % 3
  equal = ratio(3.0 * counts, counts)
  assert_allclose(equal, (3.0, 0.0), atol=1e-12)


def test_levels_that_are_never_drawn_are_left_out(arrays, tmp_path):
  never = {n: 0.0 * x if n.endswith('_4') else x for n, x in arrays.items() if n != 'label'}
  assert [*losses.report(never, tmp_path)['losses']['linear']] == ['all', *losses.QUARTERS[:3]]
