"""What networks of a config see, and runs that are trained with more than a denoising loss."""

import functools
import math
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.kinds.network import Process
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.drawing import generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks, setup
from diffusion_jax.app.train.setup import jit_step, prepare
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Context
from diffusion_jax.training.state import init_state
from tests.app.conftest import lines_of, normal_params, params_of, read, smoke, trial
from tests.app.fields import within
from tests.rows import slow
from tests.transcribed import transcribes

FEW = {'network.multipliers': (1,), 'network.attention_resolutions': ()}
RAW = within('training.average', warmup=False, decay=0.0)


def test_augmentation_is_of_the_training_only(tmp_path):
  """The programs are traced only; the test loss has no augmentation."""
  changes = FEW | {
    'network.num_blocks': 1,
    'conditioning.augment': 0.5,
    'training.machine.accumulate': 2,
  }
  parts = prepare(trial('digits_edm', **changes), RunFolder.at(tmp_path))
  c, facts = parts.config, parts.model.facts
  batch = next(datasets.batches(c, parts.source, facts, 0))
  step = jit_step(c, parts.mesh, parts.objective, parts.optimizer, parts.shapes)
  key = jax.random.key(0)
  train = step.trace(parts.shapes, batch, key, {}, 1.0).jaxpr
  params, losses = parts.shapes.params, parts.model.objective(test=True)
  test = jax.make_jaxpr(losses)(params, Context(), key, batch)
  # only the warp of the images has products of this precision
  assert 'Precision.HIGHEST' in str(train)
  assert 'Precision.HIGHEST' not in str(test)


def row_errors(params):
  """Returns each kernel's relative distance of row norms from sqrt(fan in)."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'kernel':
      rows = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1]).T
      norms = np.linalg.norm(rows, axis=1)
      yield np.abs(norms / math.sqrt(rows.shape[1]) - 1.0).max()


@transcribes('EDM2 (Karras et al. 2024)', '66: forced weight normalisation')
def test_rows_of_edm2_are_normalised_at_first_and_by_each_step(tmp_path, monkeypatch):
  """Kernels are drawn as twos, whose program is small."""
  monkeypatch.setattr(jax.random, 'normal', lambda key, *how: 2.0 * jnp.ones(*how))
  config = trial('digits_edm2', **FEW | {'network.num_blocks': 1})
  parts = prepare(config, RunFolder.at(tmp_path))

  @jax.jit
  def at_first_and_after_a_step(key):
    init = parts.model.init(key)
    longer = jax.tree.map(lambda x: 3.0 * x + 1.0, init)
    return init, parts.objective.constrain(longer)

  init, constrained = at_first_and_after_a_step(jax.random.key(0))
  assert set(init) == {'network', 'uncertainty'}
  assert init['network']['gain_out'] == 0.0
  assert max(row_errors(init)) < 1e-5
  errors = list(row_errors(constrained))
  assert len(errors) > 10 and max(errors) < 1e-5


def test_the_average_of_edm2_is_a_power_function():
  """The width 0.075 decays by (1 - 1 / (step + 1))^(gamma + 1)."""
  width = 0.075
  gamma = 10.2891
  assert math.isclose(
    math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))), width, rel_tol=1e-4
  )
  rate = setup.averages_of(read('imagenet64_edm2')).rate
  for step in (1000, 100_000, 524_287):
    expected = (1 - 1 / (step + 1)) ** (gamma + 1)
    assert_allclose(rate(step), 1 - expected, rtol=1e-4)


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
  """Trains digits_vdm:smoke with a small network."""
  workdir = tmp_path_factory.mktemp('runs') / 'vdm'
  fields = RAW | {'training.held_out.every': 4}
  MODES['train'](trial('digits_vdm', small=True, **fields), workdir)
  return workdir


def test_it_trains_its_schedule_and_evaluates_the_bound(learned):
  test = [line for line in lines_of(learned) if 'test_loss' in line][-1]
  parts = ('prior', 'diffusion', 'reconstruction')
  total = sum(test[f'test_{name}'] for name in parts)
  assert_allclose(test['test_loss'], total, rtol=1e-5)
  params = params_of(learned)['schedule']
  moved = float(params['bias']) - trial('digits_vdm').schedule.gamma_min
  assert 1e-4 < abs(moved) < 0.1
  assert_allclose(test['test_logsnr_0'], -params['bias'], rtol=1e-5)


def test_the_bound_on_the_test_split_is_without_dropout(learned):
  """Networks that differ in dropout only have the same test loss."""
  state, losses = init_state(params_of(learned), optax.identity()), []
  for rate in (0.0, 0.9):
    model = make_model(
      trial('digits_vdm', small=True, **{'network.dropout': rate}), RunFolder.at(learned)
    )
    log = Mock(results={}, notes={})
    hooks.evaluating(model, make_mesh(model.config), (1,)).act(4, state, {}, log)
    losses.append(log.results['test_loss'])
  assert losses[0] == losses[1]


DIT = {'channels': 8, 'num_blocks': 3, 'num_heads': 2}


class Theirs(nn.Module):
  """A network of a user's: its rate of dropout and its word `routing` are not `DiT`'s."""

  out_channels: int
  rate: float = 0.5
  routing: str = 'none'

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    return nn.Dropout(self.rate, deterministic=not train)(nn.Dense(self.out_channels)(x))


THEIRS = {'network': f'{__name__}:Theirs', 'conditioning.context': None}


@pytest.mark.parametrize(
  'config, fields',
  [
    slow('digits_dit', within('network', **DIT, dropout=0.5)),  # The bound below is without it.
    ('digits_dit', within('network', **DIT, routing=0.5, routing_ends=1)),
    ('two_moons', THEIRS),
  ],
  ids=['dropout', 'routing', 'theirs'],
)
def test_the_network_of_a_test_loss_draws_nothing(config, fields, tmp_path):
  """Its outputs of two keys are equal; in training they are not."""
  model = make_model(trial(config, **fields), RunFolder.at(tmp_path))
  params = normal_params(model)['network']
  x, noise, cond = np.ones((2, *model.facts.x.shape)), np.full(2, 0.5), {'label': np.zeros(2, int)}

  @functools.partial(jax.jit, static_argnums=0)
  def outputs(test):
    apply = model.noisy.trained(test=test).apply
    return [apply(params, x, noise, cond, key=jax.random.key(seed)) for seed in (0, 1)]

  first, second = outputs(True)
  assert_array_equal(first, second)
  first, second = outputs(False)
  assert np.abs(first - second).max() > 1e-3


def test_its_samples_follow_its_own_schedule(learned):
  model, params = (
    make_model(trial('digits_vdm', small=True), RunFolder.at(learned)),
    params_of(learned),
  )
  drawing = generate(model, make_mesh(model.config))
  images, *_ = drawing(params, np.arange(2), {})
  params['schedule']['bias'] = params['schedule']['bias'] + 2.0
  assert not np.allclose(images, drawing(params, np.arange(2), {})[0])


SCHEDULES = {'flow': dj.RectifiedFlowSchedule(), 'vp': dj.LinearVPSchedule()}


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('kind', ['eps', 'score', 'v', 'x0', 'flow'])
def test_eps_and_the_score_need_a_signal_at_the_end(name, kind):
  """x_0 = (x_t - sigma eps) / alpha, which is 0 / 0 at alpha = 0."""
  process = Process(SCHEDULES[name], Parametrization(kind), lambda level: level.t, 1000)
  lost = name == 'flow' and kind in ('eps', 'score')
  assert process.kind_without_signal() == kind * lost


def test_a_learned_schedule_is_as_its_parameters_say(key):
  """gamma is gamma_min + (gamma_max - gamma_min) t at first."""
  process = Process.of(read('digits_vdm'))
  assert process.is_learned and not process.kind_without_signal()
  with pytest.raises(UserError, match='config.schedule=learned has values in a trained run only'):
    process.with_params()
  params = jax.jit(process.init)(key)
  found = jax.jit(lambda params: process.with_params(params)(0.5).logsnr)(params)
  c = read('digits_vdm').schedule
  assert_allclose(-found, 0.5 * (c.gamma_min + c.gamma_max), atol=0.02)


def test_a_fixed_schedule_has_no_parameters(key):
  process = Process.of(read('digits'))
  assert process.init(key) == {} and process.with_params() is process.schedule
  assert process.steps == 1000


# -- what metrics measure ------------------------------------------------------


def measured(config) -> Any:
  """Returns what metrics measure of an untrained model."""
  return make_model(config, RunFolder.at('nowhere')).measured


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_the_reverse_process_has_the_variance_of_the_sampler(variance):
  fields = {'sampling.sampler': 'ancestral', 'sampling.sampler.variance': variance}
  assert measured(smoke(**fields)).reverse_variance == variance
  assert measured(smoke(**{'sampling.sampler': 'ddim'})).reverse_variance == 'fixed_small'


@pytest.mark.parametrize(
  'name, noisy', [('digits', False), ('digits_flow', False), ('digits_vdm', True)]
)
def test_noise_at_t_0_is_of_the_schedule(name, noisy):
  """Step 0 of DDPM is clean; a learned schedule begins at gamma_min."""
  assert measured(read(name)).starts_noisy == noisy
