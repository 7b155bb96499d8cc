"""--mode=explain: parts that add up, what it advises, and whom it refuses."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from diffusion_jax.app.inputs.conditions import Compared
from diffusion_jax.app.modes import MODES, explain
from diffusion_jax.app.modes.explain import FLOOR, NETWORK, NOW, START, Change
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.distances import Apart, distance
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import Score
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, refused, trial, untrained
from tests.app.fields import typed

FEW = typed("""
  evaluation.num_generated=12 evaluation.num_images=4 evaluation.batch_size=4
  evaluation.features=pixels evaluation.bound_parts.num_times=1 evaluation.bound_parts.draws=1
""")
STEPS = Change('finite steps', {'sampling.num_steps': 8})
HALF = Change('half precision', {'network.dtype': 'float32'})


def values_of(*means):
  """Returns sets of these distances, whose pairs have equal noise but in the real examples."""
  names, values = (NOW, STEPS.name, HALF.name, FLOOR), {}
  for name, mean in zip(names, means, strict=True):
    noise = np.random.default_rng(name == FLOOR).standard_normal(21)
    pairs = mean + 0.1 * np.add.outer(noise, noise)
    np.fill_diagonal(pairs, 0.0)
    values[name] = Apart(pairs)
  return values


def test_parts_add_up_to_the_distance():
  values = values_of(1.0, 0.7, 0.6, 0.2)
  parts = explain.parts_of(values, [STEPS, HALF])
  assert [x.name for x in parts] == [STEPS.name, HALF.name, NETWORK, FLOOR]
  assert [x.estimate.value for x in parts[:2]] == pytest.approx([0.3, 0.1])
  assert sum(x.estimate.value for x in parts) == pytest.approx(distance(values[NOW]).value)
  assert parts[0].estimate.error < 1e-6 < 0.02 < parts[2].estimate.error  # of equal draws
  assert parts[0].note == '--config.sampling.num_steps=8 takes it away'
  assert parts[-1].note == '21 of the other split in their place'


@pytest.mark.parametrize(
  'parts, others, words',
  [
    ({STEPS.name: 0.3, NETWORK: 0.2}, {}, 'finite steps: --config.sampling.num_steps=8'),
    ({STEPS.name: 0.1, NETWORK: 0.2}, {'raw weights': -0.1}, 'the network: train for longer, or'),
    ({STEPS.name: 0.1, NETWORK: 0.2}, {'raw weights': -0.3}, 'raw weights: raw'),
    ({START: 0.3, NETWORK: 0.2}, {}, f'{START}: end the schedule in more noise'),
    ({STEPS.name: 0.0, NETWORK: 0.015, FLOOR: 9.0}, {'raw weights': 1.0}, 'nothing is above'),
  ],
)
def test_the_largest_gain_that_is_seen_is_advised(parts, others, words):
  """A change that lowers the distance is a gain; what is within two errors is not seen."""
  parts, others = (
    [Score(name, Estimate(x, 0.01)) for name, x in each.items()] for each in (parts, others)
  )
  flags = {STEPS.name: STEPS.flags, 'raw weights': 'raw'}
  assert explain.advice(parts, others, flags).startswith(words)


def test_the_parts_of_a_run_are_kept_and_in_its_report(averaged, tmp_path, capsys):
  run = shutil.copytree(averaged, tmp_path / 'run')
  MODES['explain'](of_run(run, **FEW), run)
  said = capsys.readouterr().out
  (path,) = run.glob('evaluation/explain-*/result.json')
  found = json.loads(path.read_text())
  parts = {name: x['value'] for name, x in found['parts'].items()}
  assert [*parts] == ['finite steps', START, NETWORK, FLOOR]
  of_start = found['parts'][START]
  assert of_start['note'] == 'a start at noised training examples takes it away'
  assert 0 < abs(of_start['value']) < 3 * of_start['error']  # of an SNR of 4e-5
  assert sum(parts.values()) == pytest.approx(found['whole'][NOW]['value'], rel=1e-6)
  assert [*found['changes']] == ['raw weights']
  assert found['settings']['sampling']['checkpoint'] == '4'
  assert found['settings']['evaluation']['num_generated'] == 12
  assert found['settings']['weights'] == found['settings']['drawn'][NOW]['weights']
  assert f'change first: {found["change_first"]}' in said and path.with_name('parts.png').exists()
  assert 'bound_parts' in said and list(run.glob('evaluation/bound_parts-test-*/parts.png'))
  MODES['explain'](of_run(run, **FEW), run)
  again = capsys.readouterr().out
  assert again.count('is there already, made with these settings') == 4
  MODES['report'](of_run(run), run)
  page = (run / 'report.html').read_text()
  for words in 'What adds up', NOW, 'One change at a time', STEPS.name:
    assert words in page


def test_points_of_a_sweep_are_tried_beside_what_is_drawn(averaged, tmp_path):
  """A sweep is of all combinations, as in an evaluation; the run's own fields change nothing."""
  run = shutil.copytree(averaged, tmp_path / 'run')
  opened = of_run(run)
  own = opened.sampling.grid.number
  sweep = f'guidance=classifier_free guidance.scale=1,3 num_steps={own},1'
  MODES['explain'](of_run(run, **FEW, **{'evaluation.sweep': sweep}), run)
  (path,) = run.glob('evaluation/explain-*/result.json')
  changes = json.loads(path.read_text())['changes']
  first = 'guidance=classifier_free,guidance.scale='
  names = [f'{first}{scale},num_steps={n}' for scale in ('1.0', '3.0') for n in (own, 1)]
  assert [*changes] == ['raw weights', *names]
  differences = [changes[name]['value'] for name in names]
  assert len({*differences}) == 4
  more = {'evaluation.sweep': f'num_steps={own}', 'evaluation.name': 'same'}
  MODES['explain'](of_run(run, **FEW, **more), run)
  second = json.loads((run / 'evaluation/explain-same/result.json').read_text())
  found = second['changes'][f'num_steps={own}']
  assert found['value'] == found['error'] == 0.0


def fields(changes, name, text):
  """Returns the names of the changes of a config, and their fields."""
  run = Run(make_model(trial(name, **typed(text)), RunFolder.at('')))
  vars(run)['checkpoint'] = {}, 0
  return {change.name: change.fields for change in changes(run)}


def test_four_times_as_many_steps_are_at_most_those_of_the_schedule():
  def steps(name, text):
    return fields(explain.replaced, name, text)['finite steps']['sampling.num_steps']

  assert steps('digits', 'schedule.num_steps=100 sampling.num_steps=20') == 80
  assert steps('digits', 'schedule.num_steps=100 sampling.num_steps=30') == 100
  assert steps('digits_flow', 'sampling.num_steps=30') == 120


def test_noise_is_an_exact_start_where_the_first_level_has_no_signal(tmp_path):
  """The SNR of EDM's is 80^-2, of VDM's exp(-5); other kinds have no noised examples of data."""

  def snr(name):
    model: Any = make_model(trial(name), RunFolder.at(tmp_path))
    run = Run(model)
    learned = model.noisy.process.is_learned
    vars(run)['checkpoint'] = jax.jit(model.init)(jax.random.key(0)) if learned else {}, 0
    return explain.signal_at_start(run)

  assert snr('digits_edm') == pytest.approx(80**-2, rel=1e-4)
  assert snr('digits_vdm') == pytest.approx(np.exp(-5), rel=1e-4)
  for name in 'digits_flow', 'digits_masked', 'moons_bridge', 'inference', 'directions':
    assert snr(name) < explain.SIGNAL


def test_all_averages_but_the_own_are_tried():
  def names(text):
    return [*fields(explain.tried, 'digits', text)]

  more = 'training.average.more=0.5'
  assert names(more) == ['raw weights', 'average of decay 0.5']
  assert names(f'{more} sampling.weights=raw') == ['the main average', 'average of decay 0.5']
  assert names(f'{more} sampling.weights.decay=0.5') == ['raw weights', 'the main average']


def test_samples_of_a_point_have_the_classes_of_its_own_model(averaged, monkeypatch):
  """A classifier may guide a point, whose samples then have classes."""
  run = Run.open(of_run(averaged), RunFolder.at(averaged))

  def compared(model, classes):
    return Compared(words=f'{model.config.sampling.grid.number} steps, {classes}')

  def draw(run, drawing, compared):
    raise UserError(compared.words)

  monkeypatch.setattr(explain.scorers, 'compared', compared)
  monkeypatch.setattr(explain.evaluate, 'draw', draw)
  beside: Any = SimpleNamespace(classes='of train')
  change = Change('', {'sampling.num_steps': 7})
  refused('7 steps, of train', explain.features_of, run, change, beside)


def test_what_has_no_features_is_refused(tmp_path):
  run = untrained(trial('digits_classifier'), tmp_path / 'run')
  text = refused('', lambda: MODES['explain'](of_run(run), run))
  assert '--mode=explain compares features of samples' in text


@pytest.mark.parametrize(
  'flags, words',
  [
    ('evaluation.metrics=kid', 'has no effect with --mode=explain: leave it out'),
    ('evaluation.sweep=colour=1,2', 'colour'),
    (
      'evaluation.sweep=weights.decay=0.123',
      "has no average '0.123' of the parameters, but",
    ),
    ('evaluation.num_pairs=20', 'config.evaluation.num_pairs=20 has no effect'),
    ('evaluation.num_generated=1', 'needs 2 samples and 2 held-out examples: there are 1'),
    ('evaluation.fd.num_draws=3', 'config.evaluation.fd.num_draws=3 has no effect'),
    ('evaluation.fd.features=pixels,digits', 'compares in one space: give one'),
    (
      'evaluation.reference=statistics.npz',
      'evaluation.reference=statistics.npz has no examples',
    ),
    ('sampling.labels=3', 'config.sampling.labels=3: --mode=explain compares samples with all'),
    ('evaluation.sweep=labels=3,4', "config.evaluation.sweep='labels=3,4': labels=3: config.samp"),
    ('evaluation.bound_parts.num_steps=3', 'config.evaluation.bound_parts'),
  ],
)
def test_a_flag_that_is_not_read_is_refused(flags, words, averaged, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.savez('statistics.npz', mu=np.zeros(64), sigma=np.eye(64))
  run = shutil.copytree(averaged, tmp_path / 'run')
  own = '' if 'fd.features' in flags else 'evaluation.features=pixels'
  fields = typed(f'{flags} {own}')
  opened = Run(Run.open(of_run(run, **fields), RunFolder.at(run)).model, {*fields})
  assert words in refused('', explain.main, opened)
