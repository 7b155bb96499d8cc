"""Losses of exact denoisers in a training: what they are, and when they are computed."""

import json

import jax
import pytest

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import floors
from diffusion_jax.data import pipeline
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.runtime.streams import stream
from tests.app.conftest import assert_same, params_of, smoke, trial
from tests.app.fields import within

SIZE = 64
MESH = make_mesh()
SEEN = within('training', held_out__every=2, held_out__batches=1)


def model_of(workdir, config):
  model = make_model(config, RunFolder.at(workdir))
  facts = datasets.with_contents(model.facts, datasets.source_of(model.config))
  return make_model(config, RunFolder.at(workdir), facts)


def drawn_of(model):
  """Returns the key and the batch of an index, of the held-out loss."""
  source, key = datasets.source_of(model.config, 'test'), stream(0, 'test_loss')
  return lambda i: (
    jax.random.fold_in(key, i),
    pipeline.batch_at(source, SIZE, 0, i, facts=model.facts),
  )


def computed(model):
  return floors.of_run(model, MESH, 'test', SIZE, drawn_of(model))


def test_they_are_kept_until_data_or_objective_change(tmp_path, monkeypatch):
  times = []
  lines = lambda value: {'linear': {'all': Estimate(value, float('nan'))}}
  of = lambda *args: times.append(1) or ('loss', [lines(float(len(times)))])
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
    (linear,) = (lines['linear'] for lines in changed['losses'].values())
    assert linear == {'value': len(times), 'error': None} and len(times) == count
  (tmp_path / floors.FILE).write_text('{"half')
  assert computed(model_of(tmp_path, smoke(**SEEN)))['settings'] == first['settings']


def test_a_training_has_them_and_is_not_changed(digits_run, tmp_path, capsys):
  """Bit for bit, with held-out losses and without; its lines fit a screen."""
  content = json.loads((digits_run / floors.FILE).read_text())
  log = map(json.loads, (digits_run / 'metrics.jsonl').read_text().splitlines())
  named = {name for line in log for name in line if 'loss' in name}
  assert named == {*content['losses']} == {*floors.notes_of(content)}
  MODES['train'](smoke(), str(tmp_path))
  printed = capsys.readouterr().out.splitlines()
  assert any(x.startswith('first step') for x in printed)
  assert all(len(x) <= 100 for x in printed if str(tmp_path) not in x) and len(printed) < 40
  short = floors.notes_of(content, verbose=False)
  assert all(0 < len(f'step 900: {name} 0.1829 ({note})') <= 100 for name, note in short.items())
  assert 'a linear denoiser' in short['test_loss'] and 'memorised' not in short['test_loss']
  assert len(floors.in_short(content)) <= 100 and floors.FILE in floors.in_short(content)
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
  assert make_model(made, RunFolder.at(tmp_path)).losses is None
