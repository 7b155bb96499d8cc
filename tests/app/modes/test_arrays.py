"""Real numbers from files and simulators: trained, continued, drawn, restored.

A run of vectors with a context, and one of sequences, both of networks with
random or briefly trained parameters.
"""

import json
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.evaluate.metrics_of_data import OF_LAW
from diffusion_jax.app.modes import MODES, serve
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.demos import simulators
from diffusion_jax.metrics import table
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, lines_of, of_run, refused, trial, untrained
from tests.app.fields import typed, within
from tests.rows import slow

MEAN, STD = np.array([1e3, -2.0]), np.array([1e-3, 50.0])


def save(path, n=40, seed=0, **others):
  """Writes vectors in odd units with a context of three numbers."""
  rng = np.random.default_rng(seed)
  x = MEAN + STD * rng.uniform(-1.5, 1.5, (n, 2))
  arrays = {'x': x, 'context': rng.normal(5.0, 2.0, (n, 3))}
  arrays |= {f'test_{name}': a[:16] for name, a in arrays.items()}
  np.savez(path, **arrays | others)
  return str(path)


def vectors(path, **changes):
  """The trial of two_moons with data from a file, held-out losses included."""
  fields = typed(f'data=npz data.path={path}')
  fields |= typed("""
    training.held_out.every=2 training.checkpoints.best=None sampling.checkpoint=latest
    sampling.batch_size=4 sampling.sampler=ddim
  """)
  return trial('two_moons', **fields | changes)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns (the run of vectors, its file)."""
  folder = tmp_path_factory.mktemp('arrays')
  path = save(folder / 'theta.npz')
  MODES['train'](vectors(path), folder / 'run')
  return folder / 'run', path


@pytest.fixture(scope='module')
def curves(tmp_path_factory):
  """Makes a run of sequences in units of 20 +- 3, without a training."""
  config = trial(
    'gp_sequences', **typed('data.sides=8 data.mean=20.0 data.std=3.0 sampling.sampler=ddim')
  )
  return untrained(config, tmp_path_factory.mktemp('curves') / 'run', deviation=0.05)


def test_a_run_keeps_the_statistics_of_its_file(trained):
  run, path = trained
  with np.load(path) as file:
    x, context = file['x'], file['context']
  facts = json.loads((run / 'config.json').read_text())['facts']
  for name, array in (('x', x), ('context', context)):
    assert facts[name]['shape'] == [array.shape[1]]
    assert facts[name]['levels'] == 0
    assert_allclose(facts[name]['mean'], array.mean(axis=0), 1e-12)
    assert_allclose(facts[name]['std'], array.std(axis=0), 1e-9)
  assert len(lines_of(run, 'test_loss')) == 2


@pytest.mark.slow
def test_a_validation_part_decides_and_the_test_split_is_not_read(tmp_path, capsys):
  """The test split has NaN, which any source of it would refuse."""
  broken = np.full((16, 2), np.nan)
  path = save(tmp_path / 'a.npz', test_x=broken, test_context=broken[:, :1])
  fields = typed("""
    data.validation_fraction=0.25 training.num_steps=3 training.sample_every=2
    training.checkpoints.every=1 training.held_out.every=1 training.held_out.patience=3
    training.checkpoints.best=lowest training.metrics.every=2 training.metrics.images=4
    evaluation.metrics=energy evaluation.reference=test
  """)
  MODES['train'](vectors(path, **fields), tmp_path / 'run')
  assert ', 10 validation examples' in capsys.readouterr().out
  losses = lines_of(tmp_path / 'run', 'validation_loss')
  assert len(losses) == 3 and not lines_of(tmp_path / 'run', 'test_loss')
  assert lines_of(tmp_path / 'run', 'energy')
  best = Run.open(
    of_run(tmp_path / 'run', **{'sampling.checkpoint': 'best'}), RunFolder.at(tmp_path / 'run')
  )
  assert best.checkpoint[1] == 1 + np.argmin(losses)
  config = of_run(tmp_path / 'run', **typed('evaluation.metrics=energy evaluation.num_generated=4'))
  refused('x has numbers that are not finite', MODES['evaluate'], config, tmp_path / 'run')


def test_draws_given_rows_of_a_file(trained, tmp_path, capsys):
  """Each row has num_samples draws, in units that the run has kept."""
  run, _ = trained
  y = np.array([[5.0, 4.0, 7.0], [3.0, 5.0, 40.0]])
  np.save(tmp_path / 'y.npy', y)
  fields = typed(f"""
    sampling.num_samples=3 sampling.name=given sampling.context={tmp_path}/y.npy
  """)
  MODES['sample'](of_run(run, **fields), run)
  found = arrays_of(run, 'given')
  assert found['arr_0'].shape == (6, 2)
  assert found['arr_0'].dtype == np.float64  # float32 has no 1e3 +- 1e-3
  assert_array_equal(found['context'], y)
  z = (found['arr_0'] - MEAN) / STD
  assert np.abs(z).max() < 20
  assert (run / 'samples' / 'given.png').exists()
  out = capsys.readouterr().out
  assert 'note: number 2 of row 1 of the context is 1' in out

  other = save(tmp_path / 'other.npz', x=np.random.default_rng(1).normal(size=(40, 2)))
  again = fields | typed(f'sampling.name=again data.path={other}')
  MODES['sample'](of_run(run, **again), run)
  again = arrays_of(run, 'again')
  assert_array_equal(again['arr_0'], found['arr_0'])
  # In a context that is given whole, NaN does not mean what is not known.
  np.save(tmp_path / 'y.npy', y * np.nan)
  refused('has numbers that are not finite', MODES['sample'], of_run(run, **fields), run)


def test_a_table_of_ones_own_has_a_context_where_its_file_has_one(trained, tmp_path):
  """configs/vectors.py takes the context of an npz file if there is one."""
  with np.load(trained[1]) as file:
    np.savez(tmp_path / 'alone.npz', x=file['x'])
  for path, kind in ((tmp_path / 'alone.npz', None), (trained[1], 'auto')):
    config = trial('vectors', **typed(f'data=npz data.path={path} data.test_fraction=0.2'))
    context = make_model(config, RunFolder.at(tmp_path)).config.conditioning.context
    assert (context and context.name) == kind


def test_the_page_draws_a_row_of_the_held_out_contexts(trained, tmp_path, monkeypatch):
  """The same as for this row in a file; another row is another picture."""
  path = trained[1]
  run = untrained(vectors(path), tmp_path / 'run', deviation=0.05)
  with np.load(path) as file:
    np.save(tmp_path / 'y.npy', file['test_context'][2:4])
  more = typed('serve.num_images=4 sampling.num_steps=3')
  given = {'sampling.context': str(tmp_path / 'y.npy')}
  drawn, programs, make = [], {}, serve.program  # both pages draw by one program
  one = lambda what, *args: programs.setdefault(what, make(what, *args))
  monkeypatch.setattr(serve, 'program', one)
  for fields, rows in ((given, '1'), ({}, '32')):
    opened = Run.open(of_run(run, **more | fields), RunFolder.at(run))
    emerge = serve.emerging(opened)
    assert serve.fields(opened.model)[0]['name'] == 'context_row'
    for row in rows:
      *_, last = serve.pictures(emerge, [('sampling.context_row', row)])
      drawn.append(json.loads(last.removeprefix('data: '))['image'])
  assert drawn[0] == drawn[1]
  assert drawn[1] != drawn[2]
  (event,) = serve.pictures(emerge, [('sampling.context_row', '16')])
  assert 'context_row=16 is out of range: the held-out split has' in event
  config = of_run(run, **given | {'sampling.context_row': 2})
  refused(r'y.npy has the rows 0\.\.1', MODES['sample'], config, run)


@pytest.fixture(scope='module')
def boxed(tmp_path_factory):
  """Makes a run of random parameters, which leave its narrow box."""
  folder, rng = tmp_path_factory.mktemp('boxed'), np.random.default_rng(0)
  x = rng.uniform(-1.0, 1.0, (40, 2))
  path = save(folder / 'box.npz', x=x, test_x=x[:16])
  many = typed('sampling.num_samples=20 sampling.batch_size=20')
  many |= {'sampling.sampler': 'heun', 'data.bounds': (-1.0, 1.0)}
  return untrained(vectors(path, **many), folder / 'run', 0.05)


def test_draws_are_within_the_box(boxed, capsys):
  MODES['sample'](of_run(boxed), boxed)
  assert np.abs(arrays_of(boxed)['arr_0']).max() <= 1.0
  share = re.search(r'([\d.]+) ?%.*(bounds|box|outside)', capsys.readouterr().out)
  assert share and 0.0 < float(share[1]) < 100.0


@pytest.mark.slow
def test_the_density_within_the_box_is_higher_by_the_share_inside(boxed, capsys):
  fields = typed("""
    evaluation.metrics=ode,sbc evaluation.num_images=4 evaluation.num_pairs=10
    evaluation.draws_per_pair=3
  """)
  MODES['evaluate'](of_run(boxed, **fields), boxed)
  said = capsys.readouterr().out
  assert 'nats/dim, beyond the box too' in said and 'within the box' in said
  [path] = (boxed / 'evaluation').glob('ode*/result.json')
  found = json.loads(path.read_text())['metrics']
  assert found['ode_truncated']['value'] < found['ode']['value']


@pytest.mark.slow
def test_metrics_of_numbers_and_of_pairs_as_typed(trained):
  """Every row of the tables for numbers is computed in the user's units."""
  run, path = trained
  features = 'fd', 'kid', 'pr', 'dc'
  of_pairs = [n for n in table.OF_PAIRS if n not in OF_LAW]  # the law of a file is unknown
  metrics = *features, *table.OF_VALUES, *of_pairs
  fields = typed(f"""
    evaluation.metrics={','.join(metrics)} evaluation.features= evaluation.num_generated=16
  """)
  fields |= typed("""
    evaluation.num_pairs=12 evaluation.draws_per_pair=3 evaluation.batch_size=16
  """)
  config = of_run(run, **fields, **{'report.trajectory': False})
  MODES['evaluate'](config, run)
  found = {}
  for result in (run / 'evaluation').glob('*/result.json'):
    found |= json.loads(result.read_text()).get('metrics', {})
  for name in metrics:
    for score in table.METRICS[name]().scores:
      number = found.get(score, found.get(f'{score}_values'))['value']
      assert np.isfinite(number)
      if score.endswith(('_p', '_ks', '_chi2', '_coverage')):
        assert 0.0 <= number <= 1.0
  MODES['report'](config, run)
  page = (run / 'report.html').read_text()
  assert 'Ranks of the truth among' in page and 'Expected coverage: ' in page
  pairs = np.load(*run.glob('evaluation/drawn/*num_samples=3-????????.npz'))['context']
  assert_array_equal(pairs, np.load(path)['test_context'][:12])


def halves():
  """Computes the mean of each half of a sequence."""
  return lambda x: x.reshape(len(x), 2, -1).mean(axis=-1)


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
  """Writes a sequence of the GP, its mask, and what is measured of it."""
  folder, rng = tmp_path_factory.mktemp('seen'), np.random.default_rng(3)
  x = simulators.gaussian_process(rng, 1, (8,), mean=(20.0,), std=(3.0,))['x'][0]
  mask = np.arange(8).reshape(8, 1) % 2 == 0
  arrays = {'mask': mask, 'clean': x, 'masked': np.where(mask, x, np.nan)}
  arrays['means'] = x.reshape(2, 4).mean(axis=1)
  for name, array in arrays.items():
    np.save(folder / f'{name}.npy', array)
  return folder, arrays


@pytest.mark.parametrize(
  'name, operator', [slow('masked', 'mask'), slow('means', f'{__name__}:halves')]
)
def test_sequences_are_restored_in_their_units(curves, seen, name, operator, capsys):
  folder, arrays = seen
  fields = within('edit', 'restore', image=folder / f'{name}.npy', noise=0.5, output=name)
  fields |= typed(f"""
    edit.operator={operator} edit.posterior=pseudoinverse edit.num_samples=2
  """)
  if name == 'masked':
    fields['edit.operator.mask'] = folder / 'mask.npy'
  MODES['edit'](of_run(curves, **fields, **{'sampling.num_steps': 4}), curves)
  found = arrays_of(curves, name, 'edits')
  x = found['arr_0']
  assert x.shape == (2, 8, 1) and np.isfinite(x).all()
  error = (x - arrays['clean'])[:, arrays['mask']]
  if name == 'means':
    error = x.reshape(2, 2, 4).mean(axis=-1) - arrays['means']
  # The residual of y is in the user's units.
  assert_allclose(found['residual'], np.sqrt(np.mean(error**2, axis=1)) / 0.5, rtol=2e-3)
  out = capsys.readouterr().out
  assert f'{name}.npy: residual' in out and 'grey levels' not in out
  assert (curves / 'edits' / f'{name}_{name}.png').exists()
