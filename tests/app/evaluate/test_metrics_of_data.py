"""evaluation.metrics=auto: what it stands for of each kind of model and data."""

import json

import numpy as np
import pytest

from diffusion_jax.app.evaluate import metrics_of_data, scorers
from diffusion_jax.app.kinds.store import kind_of
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import ALL
from tests.app.conftest import of_run, read, refused, stored_run, trial, untrained
from tests.app.fields import within

# Their pictures and simulations take long to make.
LARGE = 'imagenet', 'photos', 'pictures', 'images64', 'inference:sir', 'inference:lotka', 'fields'
SETS, PAIRS = metrics_of_data.OF_SETS, metrics_of_data.OF_PAIRS
AUTO = {'evaluation.metrics': 'auto'}
# By the kinds of models of levels; real numbers are below.
OF_LEVELS = {
  'a diffusion model': ('elbo',),
  'a diffusion model of latents': ('ode',),
  'a diffusion model of states': ('elbo',),
  'a diffusion model of labelled examples': ('elbo',),
  'a VAE': ('elbo',),
  'a classifier': ('accuracy',),
  'a flow map': SETS,
  'a bridge': SETS,
}
# Their bound calls the network 1,000 times for each of many large pictures.
LONG = 'cifar10', 'mnist', 'shapes_text'


def kinds_of_data():
  """Returns the first config of each kind of model, data and condition."""
  found = {}
  for name, variant in ALL:
    name = f'{name}:{variant}' if variant else name
    config = read(name)
    if config.data is not None and not name.startswith(LARGE):
      asked = config.get('conditioning', {})
      key = kind_of(config).kind, config.data.name, *(f'{n} {bool(x)}' for n, x in asked.items())
      found.setdefault(key, name)
  return sorted({*found.values()})


@pytest.mark.parametrize('name', kinds_of_data())
def test_the_metrics_of_all_configs_are_not_refused(name, tmp_path):
  """Metrics that a config names, and `auto` in their place, are not refused."""
  config = shrunk(read(name))
  for change in {}, AUTO:
    changed = trial(*name.split(':')[:2], **change) if change else config
    stored_run(tmp_path / 'run', changed)
    model = scorers.chosen(make_model(changed, RunFolder.at(tmp_path / 'run')))
    model.check('evaluate')
    scorers.check_needs(model, scorers.of_samples(model))
    assert scorers.named(model)
  facts = model.facts
  if facts.x.levels:
    kind = model.schema.kind
    is_long = kind == 'a diffusion model' and name.startswith(LONG)
    assert model.config.evaluation.metrics == (('loss',) if is_long else OF_LEVELS[kind])
  elif facts.x.kinds:
    assert model.config.evaluation.metrics == metrics_of_data.OF_ROWS
  elif facts.x.manifold:
    assert model.config.evaluation.metrics == metrics_of_data.OF_DIRECTIONS
  elif name == 'rollout:eeg':  # the series of the others has fewer than 10 held-out examples here
    assert model.config.evaluation.metrics == ('crps', 'interval_coverage', 'order_gap')
  else:
    numbers = PAIRS if model.conditioning.context is not None else SETS
    likelihood = ('ode',) if 'ode' in model.schema.metrics else ()
    assert model.config.evaluation.metrics == numbers + likelihood


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  """Writes a table with a column of whole numbers, and one of areas."""
  rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('table')
  rooms, area = rng.integers(1, 5, 80), rng.normal(90.0, 20.0, 80)
  np.savetxt(
    folder / 'houses.csv', np.c_[rooms, area], '%.8g', ',', header='rooms,area', comments=''
  )
  return folder


def table(paths, *x, **changes):
  fields = within('data', 'csv', path=str(paths / 'houses.csv'), x=x, test_fraction=0.1)
  return trial(
    'vectors',
    **fields | {'training.checkpoints.best': None, 'sampling.checkpoint': 'latest'} | changes,
  )


def chosen(config, folder):
  return scorers.chosen(make_model(config, RunFolder.at(folder))).config.evaluation


def test_what_is_held_out_decides(paths, tmp_path):
  """The split that is held out decides which metrics `auto` names, and how many samples."""
  all_rows = table(paths, 'rooms', 'area', **{'data.test_fraction': 0.0})
  few = {'data.context': 'area'}
  assert chosen(all_rows, tmp_path).metrics == SETS
  assert chosen(table(paths, 'rooms', **few), tmp_path).metrics == (*SETS, 'ode')  # 8 pairs
  none = few | {'data.test_fraction': 0.0}
  assert chosen(table(paths, 'rooms', **none), tmp_path).metrics == SETS
  some = few | {'data.test_fraction': 0.2, 'evaluation.metrics': 'regression,auto,ode'}
  assert chosen(table(paths, 'rooms', **some), tmp_path).metrics == ('regression', *PAIRS, 'ode')
  usual = table(paths, 'rooms', 'area', **{'evaluation.num_generated': 50_000})
  assert chosen(usual, tmp_path).num_generated == 72
  assert chosen(all_rows, tmp_path).num_generated == 16  # of the trial
  refused('validation_fraction=0.0 leaves none', chosen, table(
    paths, 'rooms', 'area', **{'evaluation.split': 'validation'}), tmp_path)  # fmt: skip
  coupled = trial(**AUTO | {'objective.coupling': 'exact', 'sampling.sampler': 'ddim'})
  assert chosen(coupled, tmp_path).metrics == ('ode',)


def test_the_metrics_of_a_training_are_those_of_its_samples(paths, tmp_path):
  """Metrics of pairs need many draws, so a training of pairs measures none."""
  pairs = {'data.test_fraction': 0.2, 'data.context': 'area'}
  for config, few in (
    (table(paths, 'rooms', 'area'), {'energy'}),
    (table(paths, 'rooms', **pairs), {}),
  ):
    found = {*scorers.higher_is_better(make_model(config, RunFolder.at(tmp_path)))}
    assert found >= {*few} and bool(found) == bool(few)
  alone = scorers.by_evaluate_alone(make_model(config, RunFolder.at(tmp_path)))
  assert {'sbc', 'tarp', 'ode'} <= {*alone}


def scores_of(config, folder, **fields):
  """Returns {score: note} of an evaluation without metrics, all finite."""
  run = untrained(config, folder, deviation=0.05)
  MODES['evaluate'](of_run(run, **fields), run)
  found = {}
  for path in (run / 'evaluation').glob('*/result.json'):
    result = json.loads(path.read_text())
    found |= result['metrics']
  assert all(np.isfinite(x['value']) for x in found.values())
  return {name: x['note'] for name, x in found.items()}


def test_a_table_has_the_metrics_that_its_columns_and_rows_allow(tmp_path):
  def metrics(text, **changes):
    (path := tmp_path / 'rows.csv').write_text(text)
    return chosen(trial('table', **AUTO, **{'data.path': path, **changes}), tmp_path).metrics

  column, pair = '\n'.join(map(str, range(900))), '\n'.join(f'{i % 3}u,{i}' for i in range(90))
  assert metrics('a\n' + column) == ('shape', 'alpha_precision', 'copies', 'detection')
  few = ('shape', 'trend', 'alpha_precision', 'copies', 'categories')
  assert metrics('a,b\n' + pair) == few
  assert metrics('a,b\n' + pair, **{'data.test_fraction': 0.0}) == (*few, 'detection')


def test_a_table_is_evaluated_and_its_whole_numbers_are_named(paths, tmp_path, capsys):
  notes = scores_of(table(paths, 'rooms', 'area', **{'data.test_fraction': 0.0}), tmp_path / 'run')
  assert 'evaluation.metrics=sliced_w2,energy,moments\n' in capsys.readouterr().out
  for name in 'sliced_w2', 'energy':
    assert notes[name].endswith('column rooms has 4 different values in the reference')
  assert 'rooms' not in notes['moments_mean']


@pytest.mark.slow
@pytest.mark.parametrize('sides', [(8,), (4, 4)])
def test_a_sequence_and_a_field_are_evaluated(sides, tmp_path):
  config = trial('gp_sequences', **within('data', sides=sides, num_examples=40, num_test=16))
  assert {*scores_of(config, tmp_path / 'run')} >= {'sliced_w2', 'energy', 'moments_std', 'ode'}


def test_without_held_out_pictures_the_loss_is_of_training_examples(monkeypatch):
  """Samples are compared where it says little; distances of texts would mean nothing."""
  names = 'digits', 'digits_vae', 'text_masked'
  diffusion, vae, text = (make_model(trial(n, **AUTO), RunFolder.at('x')) for n in names)
  source_of = metrics_of_data.datasets.source_of

  def only_train(config, split='train'):
    if split == 'test':
      raise UserError('no test split') from NoTestSplit
    return source_of(config, split)

  monkeypatch.setattr(metrics_of_data.datasets, 'source_of', only_train)
  c = scorers.chosen(diffusion).config.evaluation
  assert (c.metrics, c.split) == (('loss',), 'train')
  c = scorers.chosen(vae).config.evaluation
  assert (c.metrics, c.split) == (SETS, 'test')
  refused('no test split', scorers.chosen, text)
