"""Every experiment builds, and the published ones are as published."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
  base,
  cifar10,
  cifar10_edm,
  cifar10_improved,
  cifar10_vdm,
  digits,
  imagenet64,
)
from diffusion_jax.programs import build, folder

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENTS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


@pytest.mark.parametrize('name', EXPERIMENTS)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_every_config_builds(name, argument):
  """Network by its shapes, one traced loss."""
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(argument)
  assert f'configs/{name}.py' in module.__doc__
  assert set(folder._flat(config.to_dict())) == set(
    folder._flat(base.get_config().to_dict())
  )
  if not config.data.name:
    build.build_schedule(config)
    return
  params = build.abstract_params(config)
  schedule = build.build_schedule(config, params)
  objective = build.build_objective(config)
  build.build_optimizer(config)
  build.build_sampler(config, schedule)
  batch = {
    'image': jax.ShapeDtypeStruct((2, *build.state_shape(config)), jnp.float32),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
    'text': jax.ShapeDtypeStruct((2, 9), jnp.int32),
    'text_mask': jax.ShapeDtypeStruct((2, 9), bool),
  }
  memory = build.build_objective_state(config)
  loss, _ = jax.eval_shape(objective, params, memory, jax.random.key(0), batch)
  assert loss.shape == ()


def test_an_unknown_argument_is_not_a_full_run():
  with pytest.raises(ValueError, match="can be 'smoke', not 'smok'"):
    digits.get_config('smok')


def test_cifar10_is_the_published_recipe():
  """recipes 1.1 and 1.2."""
  config = cifar10.get_config()
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 35_746_307
  rate = build.build_learning_rate(config)
  np.testing.assert_allclose(rate(2500), 1e-4, rtol=1e-5)
  np.testing.assert_allclose(rate(500_000), 2e-4, rtol=1e-5)
  c = config
  assert (c.training.batch_size, c.training.num_steps) == (128, 800_000)
  assert (c.training.ema_decay, c.training.ema_warmup) == (0.9999, False)
  assert (c.optimizer.clip_norm, c.optimizer.eps) == (1.0, 1e-8)
  assert c.network.dropout == 0.1 and c.data.random_flip
  assert c.sampling.variance == 'fixed_large' and c.sampling.clip


def test_vdm_cifar10_is_the_published_recipe():
  """recipes 0 and 4."""
  config = cifar10_vdm.get_config()
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 30_578_181
  config.network.channels, config.schedule.gamma = 256, 'network'
  params = build.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(params)) == 122_140_677
  c = cifar10_vdm.get_config()
  rate = build.build_learning_rate(c)
  np.testing.assert_allclose([rate(50), rate(10**6)], [1e-4, 2e-4], rtol=1e-5)
  assert (c.optimizer.b1, c.optimizer.b2, c.optimizer.eps) == (0.9, 0.99, 1e-8)
  assert (c.optimizer.weight_decay, c.optimizer.clip_norm) == (0.01, 0.0)
  assert (c.training.batch_size, c.training.num_steps) == (128, 10_000_000)
  assert (c.training.ema_decay, c.training.ema_warmup) == (0.9999, False)
  assert c.network.dropout == 0.1 and not c.data.random_flip
  assert not c.sampling.clip and c.objective.num_steps == 0


@pytest.mark.parametrize(
  'argument, parameters', [('', 55_733_891), ('conditional', 55_735_299)]
)
def test_edm_cifar10_is_the_published_recipe(argument, parameters):
  """recipes 0 and 6."""
  c = cifar10_edm.get_config(argument)
  assert c.conditioning.labels == (argument == 'conditional')
  assert sum(x.size for x in jax.tree.leaves(build.abstract_params(c))) == (
    parameters
  )
  assert c.training.num_steps * c.training.batch_size == 200_000_000
  rate, images = build.build_learning_rate(c), c.training.batch_size
  for step in (1000, 19_531, 10**5):
    expected = 1e-3 * min(step * images / 10e6, 1)
    np.testing.assert_allclose(rate(step), expected, rtol=5e-5)
  decay, more = build.build_ema_decays(c)
  for step in (10, 1000, 10**5):
    half_life = min(500_000, 0.05 * step * images)
    np.testing.assert_allclose(decay(step), 0.5 ** (512 / half_life), rtol=1e-6)
  assert not more and not c.data.random_flip
  assert (c.optimizer.b1, c.optimizer.b2, c.optimizer.eps) == (0.9, 0.999, 1e-8)
  assert (c.optimizer.clip_norm, c.optimizer.weight_decay) == (0.0, 0.0)
  assert c.optimizer.repair_gradients and not c.sampling.clip
  assert (c.network.dropout, c.objective.augment) == (0.13, 0.12)
  objective = c.objective
  assert (objective.log_normal_mean, objective.log_normal_std) == (-1.2, 1.2)
  assert objective.sigma_data == 0.5


def test_arguments_of_edm_may_be_joined():
  config = cifar10_edm.get_config('conditional_smoke')
  assert config.conditioning.labels and config.training.num_steps == 4
  assert not cifar10_edm.get_config('smoke').conditioning.labels
  for wrong in ('conditional,smok', 'conditionalsmoke', 'smoke,conditional'):
    with pytest.raises(ValueError, match='one of conditional, smoke,'):
      cifar10_edm.get_config(wrong)


@pytest.mark.parametrize(
  'module, expected',
  [(cifar10_improved, 52_546_438), (imagenet64, 295_904_454)],
)
def test_openais_networks_have_their_published_size(module, expected):
  """recipes 0 and 3.3."""
  params = build.abstract_params(module.get_config())
  assert sum(x.size for x in jax.tree.leaves(params)) == expected
