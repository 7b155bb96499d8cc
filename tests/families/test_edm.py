"""Runs of networks with augmentation and self-conditioning."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from configs import digits_edm
from diffusion_jax import build, families
from diffusion_jax.core.keys import fold_in_each, stream
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.training import checkpoints
from diffusion_jax.runtime.sharding import replicated
from tests.programs.conftest import smoke


def losses(workdir, name):
  text = (workdir / 'metrics.jsonl').read_text()
  lines = map(json.loads, text.splitlines())
  return [line[name] for line in lines if name in line]


def test_an_augmented_run_trains_and_evaluates(tmp_path):
  config = digits_edm.get_config('smoke')
  config.training.sample_every = 0
  config.training.mesh = (1, 1)
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.training.accumulate = 2
  config.objective.augment = 0.5
  PROGRAMS['train'](config, str(tmp_path))
  assert len(losses(tmp_path, 'loss')) == 4
  assert losses(tmp_path, 'test_loss')[-1] > 0


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of digits:smoke with self-conditioning, and its config."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  config = smoke(**{'conditioning.self_conditioning': True})
  config.training.sample_every = 4
  PROGRAMS['train'](config, str(workdir))
  return workdir, config


def test_a_self_conditioned_run_trains_samples_and_evaluates(run):
  workdir, config = run
  assert len(losses(workdir, 'loss')) == 4
  assert (workdir / 'samples' / 'step_00000004.png').exists()
  config = config.copy_and_resolve_references()
  config.evaluation.num_images = config.evaluation.batch_size = 4
  config.evaluation.num_steps = 3
  PROGRAMS['evaluate'](config, str(workdir))
  found = (workdir / 'evaluation' / 'elbo-test' / 'result.json').read_text()
  assert json.loads(found)['bits_per_dim'] > 0


def test_its_sampler_hands_each_estimate_to_the_next_step(run):
  """Two steps of DDIM by hand, the network called as (x, noise, label, x0)."""
  workdir, config = run
  config = config.copy_and_resolve_references()
  config.sampling.num_steps, config.sampling.eta = 2, 0.0
  params = checkpoints.restore_params(workdir)[0]
  # away from the initial zeros, so that x0 shows
  params = jax.tree.map(
    lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params
  )
  mesh = build.build_mesh(config)
  index, labels = np.arange(2), np.array([3, 8])
  place = jax.device_put(params, replicated(mesh))
  found = families.of(config).generate(config, mesh)(
    place, index, {'label': labels}
  )

  levels = dj.level_grid(build.build_schedule(config), 2)
  keys = fold_in_each(stream(config.sampling.seed, 'sampling'), index)
  prior_keys, _ = jax.vmap(jax.random.split, out_axes=1)(keys)
  x = dj.prior_sample(prior_keys, (2, 8, 8, 1), levels.take(0))
  apply = jax.jit(build.build_network(config).apply)
  noise = build.build_noise_input(config)
  x0, differs = jnp.zeros_like(x), []
  for i in range(2):
    t, s = levels.take(i), levels.take(i + 1)
    see = lambda x0, x=x, t=t: apply(
      {'params': params['network']},
      x,
      jnp.broadcast_to(noise(t), 2),
      {'label': labels, 'x0': x0},
    )
    eps = see(x0)
    differs.append(np.abs(eps - see(0.0 * x0)).max())
    x0 = jnp.clip((x - t.sigma * eps) / t.alpha, -1.0, 1.0)
    eps = (x - t.alpha * x0) / t.sigma
    x = s.alpha * x0 + s.sigma * eps
  np.testing.assert_allclose(found, x, atol=2e-3)
  assert differs[0] == 0.0 and differs[1] > 0.05
