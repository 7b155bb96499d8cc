"""Losses of exact denoisers in a training: what they are, and when they are computed."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import registry
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import floors
from diffusion_jax.core.keys import stream
from diffusion_jax.data import pipeline
from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.training.objectives import Context
from tests.app.conftest import assert_same, params_of, smoke, trial
from tests.app.fields import within

SIZE = 64
MESH = make_mesh()
SEEN = within('training', held_out__every=2, held_out__batches=1)


def model_of(workdir, config):
  model = registry.make(config, workdir)
  facts = datasets.with_contents(model.facts, datasets.source_of(model.config))
  return registry.make(config, workdir, facts)


def drawn_of(model):
  """Returns the key and the batch of an index, of the held-out loss."""
  source, key = datasets.source_of(model.config, 'test'), stream(0, 'test_loss')
  return lambda i: (
    jax.random.fold_in(key, i),
    pipeline.batch_at(source, SIZE, 0, i, facts=model.facts),
  )


def computed(model):
  return floors.of_run(model, MESH, 'test', SIZE, drawn_of(model))


def test_they_are_those_of_the_objective_in_float64(tmp_path):
  """At the draws of the held-out loss, by all training examples, with the run's weight."""
  model = model_of(tmp_path, smoke(**SEEN, **{'objective.weight': 'truncated_snr'}))
  found = computed(model)['losses']
  key, batch = drawn_of(model)(0)
  draws, _ = jax.jit(model.objective(test=True).draw)(key, batch, Context())
  x0, eps, level = jax.device_get((draws.x0, draws.eps, draws.level))
  x0, eps = (a.reshape(SIZE, -1).astype(np.float64) for a in (x0, eps))
  alpha, sigma = (a.astype(np.float64)[:, None] for a in level[1:])
  train = datasets.source_of(model.config).read(np.arange(1437))['x'].reshape(1437, -1)
  train = train / 8.0 - 1.0
  mean, (v, q) = train.mean(axis=0), np.linalg.eigh(np.cov(train.T, bias=True))
  xt = alpha * x0 + sigma * eps
  linear = mean + ((xt - alpha * mean) @ q * (alpha * v / (alpha**2 * v + sigma**2))) @ q.T
  square = ((xt[:, None] - alpha[:, None] * train[None]) ** 2).sum(axis=2)
  w = np.exp(-(square - square.min(axis=1, keepdims=True)) / (2 * sigma**2))
  heart = (w / w.sum(axis=1, keepdims=True)) @ train
  weight = np.maximum((alpha / sigma) ** 2, 1.0)
  for line, estimate in {'linear': linear, 'memorised_held_out': heart}.items():
    right = (weight * (x0 - estimate) ** 2).mean(axis=1)
    assert_allclose(found[line]['loss'], right.mean(), rtol=2e-3)
    first = right[level.t <= 0.25]
    assert_allclose(found[line]['loss_quarter_1'], first.mean(), rtol=2e-3)
  assert found['memorised']['loss'] < 0.5 * found['memorised_held_out']['loss']


def test_they_are_kept_until_data_or_objective_change(tmp_path, monkeypatch):
  times = []
  of = lambda *args: times.append(1) or {'nothing_learnt': {'loss': float(len(times))}}
  monkeypatch.setattr(floors, 'measure', of)
  first = computed(model_of(tmp_path, smoke(**SEEN)))
  again = computed(model_of(tmp_path, smoke(**SEEN, **{'network.channels': 16})))
  assert again == first == floors.read(tmp_path / floors.FILE)
  changes = (
    {'objective.weight': 'min_snr'},
    {'data.validation_fraction': 0.1},
    {'schedule': 'cosine'},
  )
  for count, change in enumerate(changes, 2):
    changed = computed(model_of(tmp_path, smoke(**SEEN, **change)))
    assert changed['losses']['nothing_learnt']['loss'] == len(times) == count
  (tmp_path / floors.FILE).write_text('{"half')
  assert computed(model_of(tmp_path, smoke(**SEEN)))['settings'] == first['settings']


def test_a_training_has_them_and_is_not_changed(digits_run, tmp_path):
  """Bit for bit, with held-out losses and without."""
  content = json.loads((digits_run / floors.FILE).read_text())
  value = {line: f'{x["loss"]:.3g}' for line, x in content['losses'].items()}
  note, text = floors.described(content)
  assert note == f' (linear {value["linear"]}, memorised {value["memorised"]})'
  assert f'{value["memorised_held_out"]} on test examples' in text and '\n' not in text
  MODES['train'](smoke(), str(tmp_path))
  assert not (tmp_path / floors.FILE).exists()
  assert_same(*(params_of(x) for x in (digits_run, tmp_path)))


@pytest.mark.parametrize(
  'config',
  [
    {'objective': 'vlb'},
    {'schedule': 'flow', 'parametrization': 'flow', 'objective.coupling': 'exact'},
    'digits_masked',
    'digits_meanflow',
    'digits_vae',
    'moons_bridge',
  ],
)
def test_an_objective_that_does_more_than_denoise_has_none(config, tmp_path):
  made = trial(config) if isinstance(config, str) else smoke(**config)
  assert registry.make(made, tmp_path).losses is None
