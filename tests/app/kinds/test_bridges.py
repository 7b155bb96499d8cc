"""Bridges by config: trained, sampled both ways, evaluated, and refused."""

import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.config import folder
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.conditions import Conditions
from diffusion_jax.app.kinds.bridges import BridgeSampling
from diffusion_jax.app.kinds.bridges.model import plan_of
from diffusion_jax.app.kinds.sampling import Steps
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import checkpoints
from tests.app.conftest import arrays_of, refused, trial
from tests.app.fields import typed, within

BACK = within('sampling', reverse=True, name='back')


@pytest.mark.slow
def test_points_are_trained_sampled_both_ways_and_evaluated(tmp_path):
  config = {'network.channels': 8, 'evaluation.num_generated': 16}
  MODES['train'](trial('moons_bridge', **config), tmp_path)
  for more in (within('sampling', name='samples'), BACK | {'sampling.stochastic': True}):
    MODES['sample'](trial('moons_bridge', **config | more), tmp_path)
  source = datasets.source_of(trial('moons_bridge'), 'test').read(np.arange(16))
  for name, start in (('samples', 'context'), ('back', 'x')):
    arrays = arrays_of(tmp_path, name)
    assert_array_equal(arrays['context'], source[start])
    assert np.isfinite(arrays['arr_0']).all() and np.ptp(arrays['arr_0'] - arrays['context']) > 1e-3
  MODES['evaluate'](trial('moons_bridge', **config), tmp_path)
  for name in 'sliced_w2', 'energy':
    [path] = tmp_path.glob(f'evaluation/{name}-*/result.json')
    assert name in json.loads(path.read_text())['metrics']


@pytest.fixture(scope='module')
def still(tmp_path_factory):
  """Makes a run on images whose network predicts 0."""
  config = trial('moons_bridge', 'digits', small=True)
  workdir = make_folder(tmp_path_factory.mktemp('runs') / 'still')
  model = make_model(config, RunFolder.at(workdir))
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model.shapes())
  folder.write_config(RunFolder.at(workdir), config, model.facts)
  stored = folder.stored_form(config, model.facts)
  checkpoints.save_params(workdir, config.training.num_steps, params, stored)
  return workdir


def test_the_plan_is_that_of_the_fields():
  """The fields decide the number of steps, the direction, and noise only if it is stochastic."""
  config = trial('moons_bridge', **{'objective.diffusion': 0.3})
  noisy = make_model(config, RunFolder.at('nowhere')).noisy
  output = lambda params, x, level, cond: jnp.concatenate([x, x + level.t], axis=1)
  given = mock.Mock(wraps=noisy, config=config, given=lambda: mock.Mock(output=output))
  x, pairs = np.ones((3, 2), np.float32), []
  for back in (False, True):
    fields = BridgeSampling(weights=None, grid=Steps(7), reverse=back, stochastic=back)

    @jax.jit
    def steps(keys, fields=fields):
      plan = plan_of(given, fields, {'network': ()})
      predict = plan.step_function({})
      t, s = (jax.tree.map(lambda a, i=i: a[i], plan.levels) for i in (3, 4))
      drawn = [plan.sampler.step(k, x, (), predict, level_s=s, level_t=t)[0] for k in keys]
      return predict(x, 0.25), drawn, plan.levels.t

    pair, drawn, t = steps(jax.random.split(jax.random.key(0)))
    pairs.append([float(part[0, 0]) for part in pair])
    assert len(t) == 8 and np.array_equal(*drawn) != back
  assert pairs == [[1.0, 1.25], [-1.0, 1.75]]


@pytest.mark.parametrize('back', [False, True])
def test_without_a_displacement_images_stay_where_they_start(back, still):
  more = BACK if back else within('sampling', name='there')
  MODES['sample'](trial('moons_bridge', 'digits', small=True, **more), still)
  arrays = arrays_of(still, more['sampling.name'])
  digits = datasets.source_of(trial('moons_bridge', 'digits'), 'test').read(np.arange(16))
  upright, turned = digits['x'], digits['context']
  assert_array_equal(np.rot90(upright, 1, (1, 2)), turned)
  assert_array_equal(arrays['context'], upright if back else turned)
  assert_array_equal(arrays['arr_0'], np.rint(arrays['context'] * (255 / 16)))


def test_own_images_are_taken_along(still, tmp_path, capsys):
  """Equal ones are taken to equal ones by the ODE, as a line says."""
  path = tmp_path / 'own.npy'
  np.save(path, np.full((2, 8, 8, 1), 16, np.uint8))
  more = within('sampling', context=str(path), num_samples=3, name='own')
  MODES['sample'](trial('moons_bridge', 'digits', small=True, **more), still)
  assert np.all(arrays_of(still, 'own')['arr_0'] == np.full((6, 8, 8, 1), 255))
  assert 'note: 6 samples begin at 1 different points' in capsys.readouterr().out
  run, context = dj.open_run(still), np.arange(192).reshape(3, 8, 8, 1) % 17
  run.draw(3, context=context)
  assert 'equal samples' not in capsys.readouterr().out
  run.draw(3, context=context[:2])
  assert 'equal samples: for different ones set sampling.stochastic=True' in capsys.readouterr().out


def test_a_table_has_both_ends(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('a,b\n1,2\n3,5\n')
  table = within('data.target', path=str(path), x='a,b')
  model = make_model(
    trial('moons_bridge', **{'data.target': 'csv'} | table), RunFolder.at(tmp_path)
  )
  inputs = Conditions({}, {'context': np.array([[5.0, 6.0]])}, *2 * (np.zeros(1, int),))
  sample.write_table(path, model, inputs, np.array([[7.0, 8.0]]))
  assert path.read_text() == 'sample,row,a,b,from a,from b\n0,0,7.0,8.0,5.0,6.0\n'


# Mode, fields => message.
REFUSED = r"""
train data=moons => objective=bridge needs data with a source: set data=between
train data.source=digits => real numbers \[2\], and the source 17 levels
train data.paired=True data.target.num_examples=7 => the target has 7 examples and the source
train data.source=npz data.source.path=/nowhere.npz => file /nowhere.npz not
train conditioning.context=vector => changes one of the two examples
train objective.diffusion=0 objective.coupling=exact sampling.stochastic=True => has the ODE only
train data.paired=True => batch, and data.paired=True has pairs: leave one
train objective.diffusion=0 => coupling=schrodinger needs objective.diffusion above
evaluate sampling.reverse=True => evaluation.reference=test is x: set it to an npz
edit => this run is a bridge, which cannot edit
"""


@pytest.mark.parametrize('row', REFUSED.strip().splitlines())
def test_what_a_bridge_refuses(row):
  words, message = row.split(' => ')
  mode, _, fields = words.partition(' ')
  config = trial('moons_bridge', **typed(fields))
  refused(message, lambda: make_model(config, RunFolder.at('nowhere')).check(mode))


def test_bounds_are_refused(tmp_path):
  path = tmp_path / 'pairs.npz'
  pairs = np.random.default_rng(0).uniform(size=(9, 2)).astype(np.float32)
  np.savez(path, x=pairs, context=pairs)
  data = {'data': 'npz', 'data.path': path}
  make_model(trial('moons_bridge', **data), RunFolder.at('nowhere')).check('train')
  config = trial('moons_bridge', **data | {'data.bounds': (0, 1)})
  refused(
    'the paths of a bridge leave the box',
    make_model(config, RunFolder.at('nowhere')).check,
    'train',
  )
