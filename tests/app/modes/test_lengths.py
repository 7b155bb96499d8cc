"""Series of lengths of their own: trained, measured, and what cannot be done with them."""

import json
import shutil

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.modes import MODES, serve
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.data.npz import npz
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import (
  arrays_of,
  assert_same,
  kept,
  of_run,
  params_of,
  refused,
  trial,
)
from tests.app.fields import typed
from tests.rows import slow

N, T = 64, 6
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, T + 1, N)
VALID = np.arange(T) < LENGTHS[:, None]
X = np.where(VALID, 280.0 + 10.0 * np.cumsum(RNG.standard_normal((N, T)), axis=1), np.nan)[
  ..., None
]
FEW = typed("""
  data=npz data.test_fraction=0.25 network=dit network.channels=16 network.num_blocks=1
  network.num_heads=2 training.num_steps=4 training.batch_size=8 training.held_out.every=2
  training.held_out.batches=1 training.checkpoints.every=2 training.checkpoints.keep=2
  training.steps_per_call=1 sampling.num_samples=5 sampling.batch_size=4 sampling.num_steps=3
  sampling.sampler=ddim sampling.checkpoint=latest
""")


def save(path, x=X, lengths=LENGTHS, **more):
  np.savez(path, x=x, lengths=lengths, **more)
  return path


def config(path, **fields):
  return trial('rollout', **FEW | {'data.path': str(path)} | fields)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of four steps on series with lengths, with what pads them NaN."""
  folder = tmp_path_factory.mktemp('lengths')
  MODES['train'](config(save(folder / 'series.npz')), folder / 'run')
  return folder / 'run'


def test_a_run_keeps_the_lengths_and_the_scale_of_what_is_valid(run):
  facts = json.loads((run / 'config.json').read_text())['facts']
  train = np.ones(N, bool)
  train[np.random.default_rng(0).permutation(N)[:16]] = False  # as `random_part` draws
  assert facts['lengths'] == np.bincount(LENGTHS[train], minlength=T + 1)[1:].tolist()
  values = X[train][VALID[train]]
  np.testing.assert_allclose(
    [*facts['x']['mean'], *facts['x']['std']], [values.mean(), values.std()]
  )
  losses = [line for line in read_json_lines(run / 'metrics.jsonl') if 'test_loss' in line]
  assert losses and all(np.isfinite(line['test_loss']) for line in losses)


def test_what_pads_them_changes_no_weight(run, tmp_path):
  MODES['train'](config(save(tmp_path / 'a.npz', np.nan_to_num(X, nan=1e30))), tmp_path / 'run')
  assert_same(params_of(tmp_path / 'run'), params_of(run))


@pytest.mark.slow  # The state of a training has no lengths.
def test_an_interruption_changes_no_weight(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/checkpoints/4')
  MODES['train'](of_run(tmp_path / 'run'), tmp_path / 'run')
  assert_same(params_of(tmp_path / 'run'), params_of(run))


# A mesh changes no loss of examples with lengths, in tests/laws/test_padding_changes_nothing.py.
@pytest.mark.parametrize(
  'fields', ['training.machine.accumulate=2', slow('training.mesh=-1,1')], ids=['parts', 'mesh']
)
def test_devices_and_parts_change_no_weight(fields, run, tmp_path):
  """Eight devices, and two parts of the batch, whose examples have other lengths."""
  MODES['train'](config(run.parent / 'series.npz', **typed(fields)), tmp_path / 'run')
  for a, b in zip(*map(leaves, (tmp_path / 'run', run)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def leaves(folder):
  return jax.tree.leaves(params_of(folder))


WRONG = {
  'above': (LENGTHS + 100, f'whole numbers in 1..{T}'),
  'zero': (0 * LENGTHS, f'whole numbers in 1..{T}'),
  'negative': (-LENGTHS, f'whole numbers in 1..{T}'),
  'not whole': (
    LENGTHS - 0.5,
    f'whole numbers in 1..{T}, the length of x, and that of example 0 is',
  ),
  'nan': (np.where(LENGTHS > 3, np.nan, LENGTHS), f'whole numbers in 1..{T}'),
  'of others': (LENGTHS[:-1], f'lengths must be whole numbers \\[{N}\\]'),
  'of elements': (VALID, f'lengths must be whole numbers \\[{N}\\]'),
}


@pytest.mark.parametrize('lengths, message', WRONG.values(), ids=WRONG)
def test_wrong_lengths_get_a_line(lengths, message, tmp_path):
  path = save(tmp_path / 'a.npz', lengths=lengths)
  line = refused(message, MODES['train'], config(path), tmp_path / 'run')
  assert str(path) in line


def test_arrays_without_elements_have_no_lengths(tmp_path):
  path = save(tmp_path / 'a.npz', X[..., 0], LENGTHS)
  refused('reshape numbers to', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'b.npz', np.zeros((N, T, 4), np.uint8))
  refused('lengths are of sequences', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'c.npz', test_x=X)
  refused('it needs test_lengths', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'd.npz', np.where(VALID[..., None], np.nan, X))
  refused('x has numbers that are not finite', MODES['train'], config(path), tmp_path / 'run')


CANNOT = {
  'network': (
    'objective.levels=None network=mlp',
    'examples have lengths.* which mlp does not have: set network to dit',
  ),
  'coupling': (
    'objective.levels=None objective.coupling=exact',
    'objective.coupling=exact compares whole examples',
  ),
}


@pytest.mark.parametrize('fields, message', CANNOT.values(), ids=CANNOT)
def test_what_has_no_lengths_says_so(fields, message, run, tmp_path):
  kept = {n: x for n, x in FEW.items() if not n.startswith('network')}
  given = trial('rollout', **kept | {'data.path': f'{run.parent}/series.npz'} | typed(fields))
  refused(message, MODES['train'], given, tmp_path / 'run')


def test_data_without_lengths_are_another_kind(run, tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.nan_to_num(X, nan=280.0))
  other = of_run(run, **{'data.path': str(tmp_path / 'a.npz')})
  line = 'whether examples have lengths is False, and True in this run'
  refused(line, datasets.source_of, datasets.of_run(other, RunFolder.at(run)))


@pytest.mark.parametrize('name', ['c2st', 'sliced_w2', 'loss'])
def test_metrics_of_one_length_say_so(name, run):
  config = of_run(run, **typed(f'evaluation.metrics={name}'))
  refused(f'metrics={name} is of examples of one length', MODES['evaluate'], config, run)


def test_a_training_measures_no_metric_of_one_length(run, tmp_path):
  fields = typed('evaluation.metrics=c2st training.metrics=generated')
  given = config(run.parent / 'series.npz', **fields)
  refused('metrics=c2st is of examples of one length', MODES['train'], given, tmp_path / 'run')


def test_what_is_measured_is_of_valid_elements(run, capsys):
  fields = typed(
    'evaluation.metrics=auto,order_gap evaluation.num_images=4 evaluation.order_gap.num_times=2'
  )
  MODES['evaluate'](of_run(run, **fields | typed('evaluation.ode.tolerance=0.05')), run)
  scores = {}
  for path in run.glob('evaluation/**/result.json'):
    scores |= json.loads(path.read_text())['metrics']
  assert {'moments_mean', 'ode', 'order_gap_left_to_right'} <= scores.keys()
  assert all(np.isfinite(score['value']) for score in scores.values())


# -- samples -------------------------------------------------------------------


def drawn(run, name, **fields):
  """Returns what --mode=sample writes, and the path of its npz file."""
  MODES['sample'](of_run(run, **typed(f'sampling.name={name}') | fields), run)
  return arrays_of(run, name), kept(run / 'samples', name, '.npz')


def test_samples_have_lengths_of_the_training(run):
  found, _ = drawn(run, 'drawn')
  x, lengths = found['arr_0'], found['lengths']
  assert x.shape == (5, T, 1)
  assert_array_equal(np.isfinite(x[..., 0]), np.arange(T) < lengths[:, None])
  few, _ = drawn(run, 'few', **typed('sampling.num_samples=3'))
  assert_array_equal(few['lengths'], lengths[:3])
  assert_allclose(few['arr_0'], x[:3], rtol=1e-5)


def test_lengths_are_drawn_as_the_training_examples_have_them(run):
  """Lengths have the training's frequencies, among the lengths of a beginning or more."""
  model = make_model(of_run(run), RunFolder.at(run))
  counts, n = np.array(model.facts.lengths), 20_000
  for least in (1, 4):
    lengths = conditions.Lengths(model).choose(n, np.full(n, least))[1]['lengths']
    share = counts * (np.arange(1, T + 1) >= least)
    share = share / share.sum()
    found = np.bincount(lengths, minlength=T + 1)[1:] / n
    assert (np.abs(found - share) <= 5.0 * np.sqrt(share * (1.0 - share) / n)).all()
  other = make_model(of_run(run, **typed('sampling.seed=1')), RunFolder.at(run))
  assert (conditions.Lengths(other).choose(n)[1]['lengths'] != lengths).any()


def test_samples_are_read_back_as_data(run, tmp_path):
  """Lengths and numbers equal the file's, and a training on them has their scale."""
  found, path = drawn(run, 'given', **typed('sampling.lengths=2,5'))
  assert found['lengths'].tolist() == [2, 5, 2, 5, 2]
  read = npz(path)
  arrays = read.read(np.arange(5))
  assert_array_equal(arrays['length'], found['lengths'])
  assert_array_equal(arrays['x'], np.nan_to_num(found['arr_0']))
  assert read.facts.lengths == (0, 3, 0, 0, 2, 0)
  fields = {'data.test_fraction': 0.4, 'training.num_steps': 2, 'training.batch_size': 8}
  MODES['train'](config(path, **fields), tmp_path / 'run')
  [line, *_] = read_json_lines(tmp_path / 'run/metrics.jsonl')
  assert np.isfinite(line['loss'])


def test_beginnings_of_any_length_are_continued(run):
  rows = np.full((3, T, 1), np.nan)
  for row, count in enumerate((1, 4, T - 1)):
    rows[row, :count] = 290.0 + row
  np.save(run / 'rows.npy', rows)
  fields = typed(f'sampling.context={run}/rows.npy sampling.num_samples=4')
  found, _ = drawn(run, 'continued', **fields)
  x, lengths = found['arr_0'], found['lengths']
  assert x.shape == (12, T, 1)
  assert (lengths >= np.repeat([1, 4, T - 1], 4)).all() and lengths[:4].min() < 4
  assert_array_equal(np.isfinite(x[..., 0]), np.arange(T) < lengths[:, None])
  each = np.repeat(rows, 4, axis=0)
  assert_array_equal(x[~np.isnan(each)], each[~np.isnan(each)])


REFUSED = {
  'too long': ('sampling.lengths=7', f'whole numbers in 1..{T}'),
  'zero': ('sampling.lengths=0', 'sampling.lengths'),
  'shorter than what is known': (
    'sampling.lengths=3 sampling.context={run}/known.npy',
    'sample 0 has the length 3, and its row of the context has 5 elements',
  ),
  'a longer beginning': (
    'sampling.context={run}/long.npy',
    f'has 9 elements, and samples with lengths have at most {T}',
  ),
  'norms of a whole sample': (
    'sampling.sampler=ancestral sampling.corrector=langevin',
    'sampling.corrector compares all numbers of a sample',
  ),
}


@pytest.mark.parametrize('fields, message', REFUSED.values(), ids=REFUSED)
def test_wrong_lengths_of_samples_get_a_line(fields, message, run):
  np.save(run / 'known.npy', np.full((1, 5, 1), 280.0))
  np.save(run / 'long.npy', np.full((1, 9, 1), 280.0))

  def sample():
    MODES['sample'](of_run(run, **typed(fields.format(run=run))), run)

  refused(message, sample)


def test_data_of_one_length_have_no_lengths_of_samples():
  given = trial('rollout', **typed('sampling.lengths=3 data.sides=8'))
  model = make_model(
    given, RunFolder.at('', written=False), Facts(ArraySpec((8, 1), 0, (0.0,), (1.0,)))
  )
  refused(
    'sampling.lengths=3 has no effect with data whose examples have one length',
    model.check,
    'sample',
  )


def test_an_opened_run_draws_lengths(run):
  opened = dj.open_run(run)
  x = opened.draw(3)
  assert_allclose(x, drawn(run, 'same')[0]['arr_0'][:3], rtol=1e-5)
  given = opened.draw(3, length=[2, 3])
  assert_array_equal(np.isfinite(given[..., 0]).sum(axis=1), [2, 3, 2])
  refused(
    'sample 1 has the length 2', opened.draw, 2, context=np.full((1, 3, 1), 280.0), length=[3, 2]
  )


def test_other_modes_draw_samples_with_lengths(run, capsys):
  """A film, the report and the page of --mode=serve."""
  drawn(run, 'film', **typed('sampling.trajectory=True'))
  MODES['report'](of_run(run), run)
  assert 'leaves out' not in capsys.readouterr().out
  *_, last = serve.emerging(
    Run.open(of_run(run, **typed('serve.num_images=2')), RunFolder.at(run))
  )([])
  assert last.sheet is not None


def test_edits_are_refused(run):
  refused(
    'is of examples of one length',
    MODES['edit'],
    of_run(run, **typed('edit=restore edit.image=a.npy')),
    run,
  )


# -- lines of text -------------------------------------------------------------

LINES = ['a', 'to be', 'or not to be', 'that is', 'the question', 'é'] * 6


@pytest.fixture(scope='module')
def text_run(tmp_path_factory):
  """A run of masked states on lines of up to 12 bytes."""
  folder = tmp_path_factory.mktemp('lines')
  (folder / 'lines.txt').write_text('\n'.join(LINES))
  fields = typed("""
    data.pieces=lines data.length=12 data.test_fraction=0.2 network.channels=16
    network.num_blocks=1 network.num_heads=2 states.features=8 training.num_steps=2
    training.batch_size=8 training.held_out.every=2 sampling.num_samples=6 sampling.batch_size=6
    sampling.num_steps=3 sampling.checkpoint=latest
  """)
  given = trial('text_masked', **fields | {'data.path': f'{folder}/lines.txt'})
  MODES['train'](given, folder / 'run')
  return folder / 'run'


def test_lines_are_learnt_and_drawn_as_lines(text_run):
  """The file of texts, and the npz file, are data again."""
  found, path = drawn(text_run, 'lines')
  lengths = found['lengths']
  assert {*lengths.tolist()} <= {len(line.encode()) for line in LINES} and {*lengths.tolist()} > {1}
  x = found['arr_0']
  assert x.dtype == np.uint8 and not x[np.arange(12) >= lengths[:, None]].any()
  lines = path.with_suffix('.txt').read_text().splitlines()
  assert len(lines) == 6 and max(map(len, lines)) <= 12
  source = npz(path)
  assert source.facts.x.is_text and sum(source.facts.lengths) == 6
  assert_array_equal(source.read(np.arange(6))['length'], lengths)
  given, _ = drawn(text_run, 'given', **typed('sampling.lengths=3'))
  assert (given['lengths'] == 3).all()


@pytest.mark.parametrize('sampler', [slow('first_hitting'), 'confidence'])
def test_samplers_of_states_have_lengths(sampler, text_run):
  found, _ = drawn(text_run, sampler, **typed(f'sampling.sampler={sampler}'))
  assert not found['arr_0'][np.arange(12) >= found['lengths'][:, None]].any()


def test_bits_are_of_the_bytes_of_lines(text_run):
  fields = typed('evaluation.metrics=auto evaluation.elbo.num_times=2')
  MODES['evaluate'](of_run(text_run, **fields), text_run)
  [path] = text_run.glob('evaluation/elbo-*/result.json')
  assert 0.0 < json.loads(path.read_text())['metrics']['elbo']['value'] < 30.0


def test_other_objectives_of_states_say_so(text_run, tmp_path):
  given = trial(
    'text_masked',
    **typed('data.pieces=lines data.length=12 data.test_fraction=0.2 objective=d3pm'),
    **{'data.path': f'{text_run.parent}/lines.txt'},
  )
  line = refused(
    'objective=d3pm counts what pads an example', MODES['train'], given, tmp_path / 'run'
  )
  assert 'set objective=masked or uniform' in line
