"""Series whose numbers have their own levels: trained, drawn in any order, and continued."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from configs import rollout
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import choices, sampling
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, of_run, refused, trial, untrained
from tests.app.fields import typed
from tests.rows import slow

N = np.nan
FEW = typed("""
  data.sides=8 data.mean=20.0 data.std=3.0 data.num_examples=64 data.num_test=16
  sampling.num_samples=3 sampling.batch_size=8 sampling.num_steps=4 sampling.checkpoint=latest
""")
SMALL = FEW | typed('network.channels=16 network.num_blocks=1 network.num_heads=2')
FEW_PICTURES = typed("""
  objective.levels=independent objective.levels.size=2 sampling.checkpoint=latest
  sampling.num_samples=3 sampling.batch_size=8 sampling.num_steps=2
""")


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of random parameters."""
  config = trial('rollout', **SMALL, **typed('sampling.sampler=ddim'))
  return untrained(config, tmp_path_factory.mktemp('rollout') / 'run', 0.05)


def draw(run, rows, name, **fields):
  """Returns what --mode=sample writes for rows of sampling.context."""
  np.save(run / 'rows.npy', rows)
  fields |= typed(f'sampling.name={name} sampling.context={run}/rows.npy')
  MODES['sample'](of_run(run, **fields), run)
  return arrays_of(run, name)


# A network that sees blocks, of levels of blocks, drawn in blocks; the others have less of it.
LESS = 'pyramid', 'causal', 'eeg'


@pytest.mark.parametrize('variant', [slow(x) if x in LESS else x for x in rollout.VARIANTS])
def test_each_variant_trains_and_draws(variant, tmp_path):
  fields = SMALL | typed('training.num_steps=2 training.held_out.every=2')
  if variant == 'eeg':
    fields = {name: x for name, x in fields.items() if not name.startswith('data.')}
    fields |= typed('data.length=8')
  MODES['train'](trial('rollout', variant, **fields), tmp_path)
  metrics = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert any(np.isfinite(row.get('test_loss', np.nan)) for row in metrics)
  MODES['sample'](of_run(tmp_path, **typed('sampling.name=drawn')), tmp_path)
  x = arrays_of(tmp_path, 'drawn')['arr_0']
  assert x.shape == (3, 8, 4 if variant == 'eeg' else 1) and np.isfinite(x).all()


ORDERS = {
  'pyramid': typed('sampling.order=pyramid sampling.order.delay=2'),
  'blocks': typed('sampling.order=blocks sampling.order.size=4'),
  'permutation': typed('sampling.order=permutation sampling.order.order=7,6,5,4,3,2,1,0'),
}
STARTS = {
  'pyramid': [0, 2, 4, 6, 8, 10, 12, 14],
  'blocks': [0, 0, 0, 0, 4, 4, 4, 4],
  'permutation': [28, 24, 20, 16, 12, 8, 4, 0],
}


def test_all_orders_are_tested():
  assert ORDERS.keys() == choices.TABLES['sampling.order'].keys() == STARTS.keys()


@pytest.mark.parametrize('name', ORDERS)
def test_an_order_starts_each_element_at_its_step(name, run):
  model = make_model(of_run(run, **ORDERS[name]), RunFolder.at(run))
  levels = model.plan().levels
  together = model.plan().levels.take(0)
  assert levels.sigma.shape == (4 + max(STARTS[name]) + 1, 1, 8)
  moved = np.diff(np.asarray(levels.sigma[:, 0]), axis=0) != 0.0
  assert_array_equal(moved.argmax(axis=0), STARTS[name])
  assert_array_equal(moved.sum(axis=0), 4)
  assert (np.asarray(levels.sigma[-1]) == 0.0).all() and (np.asarray(together.sigma) == 1.0).all()


def test_a_beginning_is_continued_and_stays(run):
  """Rows of any length: a short one is a beginning, a long one moves the window."""
  for length, rows in {
    8: np.array([[[17.0], [21.5], [19.25]]]),
    20: np.concatenate([np.full((2, 5, 1), 22.0), np.full((2, 15, 1), N)], axis=1),
  }.items():
    found = draw(run, rows, f'given{length}')
    x = found['arr_0']
    count, known = len(rows), ~np.isnan(rows[0, :, 0])
    assert x.shape == (3 * count, length, 1) and np.isfinite(x).all()
    given = np.repeat(rows[:, : known.sum()], 3, axis=0)
    assert_array_equal(x[:, : known.sum()], given)
    assert np.unique(x[:, known.sum() :]).size == 3 * count * (length - known.sum())


def test_any_elements_are_given_in_any_order(run):
  rows = np.full((1, 8, 1), N)
  rows[0, [2, 7], 0] = 25.0, 14.0
  found = draw(run, rows, 'any', **ORDERS['permutation'])['arr_0']
  assert_array_equal(found[:, [2, 7], 0], [[25.0, 14.0]] * 3)


def test_a_window_moves_by_its_stride(run):
  """A stride of the window's length draws whole windows, which know nothing of each other."""
  rows = np.full((1, 20, 1), N)  # as many as above, by one program
  alone = draw(run, rows, 'whole', **typed('sampling.stride=8'))['arr_0']
  other = draw(run, rows, 'half')['arr_0']
  assert alone.shape == other.shape == (3, 20, 1)
  assert (alone[:, 8:] != other[:, 8:]).any()


ROWS = 'sampling.context={run}/rows.npy'
WRONG = {
  'unknown order': ('sampling.order=sideways', 'sampling.order'),
  'not a permutation': (
    'sampling.order=permutation sampling.order.order=0,1,2',
    'order must name each of 0..7 once',
  ),
  'stride': ('sampling.stride=9', 'config.sampling.stride=9 is above the length of a window, 8'),
}


@pytest.mark.parametrize('flags, words', WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(flags, words, run):
  text = refused('', lambda: MODES['sample'](of_run(run, **typed(flags)), run))
  assert words in text


GIVEN = {
  'all is given': (np.ones((1, 8, 1)), 'gives all numbers of x'),
  'two channels': (np.full((1, 8, 2), N), 'has the shape [1, 8, 2]'),
  'no channels': (np.full((1, 5), 20.0), 'has the shape [1, 5]'),
  'infinite': (np.full((1, 8, 1), np.inf), 'not finite'),
}


@pytest.mark.parametrize('rows, words', GIVEN.values(), ids=GIVEN)
def test_wrong_rows_are_one_line(rows, words, run):
  text = refused('', lambda: draw(run, rows, 'wrong'))
  assert words in text


def test_an_element_is_known_as_a_whole(tmp_path):
  fields = SMALL | typed('data.mean=0.0,0.0 data.std=1.0,1.0')
  run = untrained(trial('rollout', **fields), tmp_path / 'run', 0.05)
  rows = np.zeros((1, 8, 2))
  rows[0, 3] = 1.0, N
  text = refused('', lambda: draw(run, rows, 'partly'))
  assert 'row 0' in text and 'element 3 must be known or NaN as a whole' in text


TRAINED = {
  'network': (
    'network=unet network.attention_resolutions=()',
    'network with a level for each element, which unet does not have',
  ),
  'patch': ('network.patch_size=2', 'patch_size=2: the elements of a patch need one level'),
  'patch of subsets': ('network.patch_size=2 objective.levels=subsets', 'and 1 neighbours share'),
  'order of subsets': ('objective.levels=subsets sampling.order=blocks', 'all that is noisy'),
  'all parameters': (
    'objective.levels=subsets objective.levels.parameters=8',
    'config.objective.levels.parameters=8 must be less than the 8 elements',
  ),
  'context': ('conditioning.context=vector', 'conditioning.context=vector: with objective.levels'),
  'size': ('objective.levels.size=3', 'does not divide the 8 elements'),
  'order': ('objective.levels=None sampling.order=blocks', 'objective.levels=independent'),
  'stride': ('objective.levels=None sampling.stride=2', 'config.sampling.stride=2 has no effect'),
  'coupling': ('objective.coupling=exact', 'leave it or levels out'),
}


@pytest.mark.parametrize('flags, words', TRAINED.values(), ids=TRAINED)
def test_what_a_training_cannot_be_is_one_line(flags, words, tmp_path):
  text = refused('', lambda: MODES['train'](trial('rollout', **FEW | typed(flags)), tmp_path))
  assert words in text


def test_starts_of_groups_count_groups():
  levels = sampling.Steps(4).levels(choices.SCHEDULES['flow']())
  grid = sampling.ordered(levels, sampling.blocks(1), 8, 4)
  moved = np.diff(np.asarray(grid.sigma[:, 0]), axis=0) != 0.0
  assert_array_equal(moved.argmax(axis=0), STARTS['blocks'])


def test_other_modes_take_an_order(run, tmp_path):
  """What draws in steps: reports, restorations, programs for others; and Heun's width is said."""
  order = ORDERS['pyramid']
  MODES['report'](of_run(run, **order), run)
  assert (run / 'report.html').exists()
  np.save(tmp_path / 'mask.npy', np.arange(8)[:, None] < 3)
  np.save(tmp_path / 'x.npy', np.full((8, 1), 20.0))
  restore = typed(
    f'edit=restore edit.image={tmp_path}/x.npy edit.operator=mask '
    f'edit.operator.mask={tmp_path}/mask.npy'
  )
  MODES['edit'](of_run(run, **order, **restore), run)
  out = typed(f'convert.to=stablehlo convert.out={tmp_path}/program.hlo')
  MODES['convert'](of_run(run, **out), run)
  assert (tmp_path / 'program.hlo').exists()


@pytest.mark.slow
def test_the_width_of_heuns_samples_is_said_for_an_order(run, capsys):
  fields = ORDERS['blocks'] | typed('sampling.sampler=heun sampling.schedule=continuous_cosine')
  MODES['sample'](of_run(run, **fields), run)
  assert 'the steps are too long for sampling.sampler=heun' in capsys.readouterr().out


@pytest.mark.slow
def test_each_element_gets_the_churn_of_its_own_steps(run):
  """Without the noise itself, what is drawn after a given block depends on no order."""
  rows = np.full((1, 8, 1), N)
  rows[0, :4] = 21.0
  churn = typed('sampling.sampler=ddim sampling.churn.s_churn=1.0 sampling.churn.s_noise=0.0')
  together = draw(run, rows, 'churned', **churn)['arr_0']
  ordered = draw(run, rows, 'churned_in_order', **churn | ORDERS['blocks'])['arr_0']
  assert_allclose(ordered, together, rtol=1e-5)


def test_a_window_that_moves_has_no_film(run):
  fields = typed('sampling.trajectory=True')
  text = refused('', lambda: draw(run, np.full((1, 12, 1), N), 'film', **fields))
  assert 'a window of 8 that moves has no film' in text
  found = draw(run, np.full((1, 8, 1), N), 'film', **fields)
  assert np.isfinite(found['arr_0']).all() and (run / 'samples' / 'film.gif').exists()


def test_pictures_are_given_as_they_are_written(tmp_path):
  """In 0..255, where the digits have 17 levels; other numbers are refused."""
  size = typed('network.channels=8 network.num_blocks=1 network.num_heads=1')
  fields = FEW_PICTURES | size
  run = untrained(trial('digits_dit', **fields), tmp_path / 'run', 0.05)
  rows = np.full((1, 8, 8, 1), N)
  rows[0, :2] = 255
  found = draw(run, rows, 'white')['arr_0']
  assert (found[:, :2] == 255).all() and (found[:, 2:] != 255).any()
  model = make_model(of_run(run), RunFolder.at(run))
  encoded = conditions.Contexts(model).encode(rows, np.zeros(1, int))['known']
  assert_array_equal(encoded[0, :2], 1.0)  # what networks see of white
  for number in (-1.0, 256.0, 7.5):
    rows[0, :2] = number
    text = refused('', lambda: draw(run, rows, 'wrong'))
    assert 'numbers that are not whole numbers from 0 to 255' in text


def test_a_context_that_the_network_reads_is_what_rows_give(tmp_path):
  """Then no elements are held, and an order is still free."""
  x = np.random.default_rng(0).normal(size=(32, 8, 1)).astype(np.float32)
  np.savez(tmp_path / 'x.npz', x=x, context=x.mean(axis=1), test_x=x, test_context=x.mean(axis=1))
  fields = typed(f'data=npz data.path={tmp_path}/x.npz conditioning.context=auto')
  sampling_fields = {n: x for n, x in SMALL.items() if not n.startswith('data')}
  run = untrained(trial('rollout', **sampling_fields | fields), tmp_path / 'run', 0.05)
  found = draw(run, np.zeros((2, 1)), 'read', **ORDERS['pyramid'])
  assert found['arr_0'].shape == (6, 8, 1) and found['context'].shape == (2, 1)
  text = refused('', lambda: draw(run, np.zeros((2, 1)), 'wrong', **typed('sampling.stride=2')))
  assert 'config.sampling.stride=2 has no effect' in text


def test_a_sampler_of_one_level_for_all_holds_nothing(run):
  rows = np.full((1, 8, 1), N)
  rows[0, 0] = 20.0
  text = refused('', lambda: draw(run, rows, 'held', **typed('sampling.sampler=adaptive_ode')))
  assert 'config.sampling.context has elements that stay at their own level' in text


def test_a_guide_with_one_level_guides_no_levels_of_elements(tmp_path):
  one_level = typed('objective.levels=None')
  worse = untrained(trial('rollout', **SMALL | one_level), tmp_path / 'worse', 0.05)
  run = untrained(trial('rollout', **SMALL), tmp_path / 'run', 0.05)
  guided = typed(f'sampling.guidance=autoguidance sampling.guidance.run={worse}')
  guided['sampling.guidance.scale'] = 2.0
  rows = np.full((1, 8, 1), N)
  for fields in (guided, guided | ORDERS['pyramid']):
    rows[0, 0] = 20.0
    text = refused('', lambda fields=fields: draw(run, rows, 'guided', **fields))
    assert 'has one level for an example' in text
  MODES['sample'](of_run(run, **guided | typed('sampling.name=free')), run)
  assert np.isfinite(arrays_of(run, 'free')['arr_0']).all()
