"""Networks, schedules, samplers, objectives and data of a user's own module."""

import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build import audit, own_parts
from diffusion_jax.build.network import NOISE_INPUTS
from diffusion_jax.errors import UserError
from diffusion_jax.training import conditions, objectives
from tests.build import toy_parts
from tests.programs.conftest import unet_smoke as smoke
from tests.test_readme import page_examples

ROOT = pathlib.Path(__file__).parents[2]

PAGE = page_examples('own_parts.md')
CONFIG, PARTS, METRIC = PAGE[0], '\n\n'.join(PAGE[1:-1]), PAGE[-1]


def launch(folder, *arguments):
  command = [sys.executable, str(ROOT / 'launch.py')]
  command += ['--config=mine.py:smoke', '--workdir=run', *arguments]
  path = os.environ.get('PYTHONPATH', '')
  return subprocess.run(
    command,
    cwd=folder,
    env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{path}'},
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_the_parts_of_the_page_are_trained_sampled_and_evaluated(tmp_path):
  (tmp_path / 'my_parts.py').write_text(PARTS)
  (tmp_path / 'mine.py').write_text(CONFIG)
  steps = '--config.training.num_steps=2'
  few = ['--config.data.num_pictures=24', '--config.evaluation.num_steps=3']
  for arguments in ([steps], ['--mode=sample'], ['--mode=evaluate']):
    done = launch(tmp_path, *few, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
  assert 'elbo: ' in done.stdout
  assert (tmp_path / 'run/samples/samples.npz').exists()
  done = launch(tmp_path, *few, steps, '--config.network.fourier=1,2')
  assert done.returncode == 2
  assert 'my_parts:Network takes no fourier; it takes width' in done.stderr
  stored = f'--config={ROOT}/configs/run.py:run'
  done = launch(tmp_path, stored, '--mode=evaluate')
  assert done.returncode == 2 and 'would be imported' in done.stderr
  parts = 'pictures Schedule Network objective sampler'.split()
  allowed = '--allow=' + ','.join(f'my_parts:{part}' for part in parts)
  done = launch(tmp_path, stored, '--mode=evaluate', allowed)
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope='module')
def page():
  """What the page prints: the module of its parts, and its config."""
  parts, mine = types.ModuleType('my_parts'), {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'my_parts', parts)
    exec(compile(PARTS, 'my_parts.py', 'exec'), vars(parts))
    exec(compile(CONFIG, 'mine.py', 'exec'), mine)
    config = mine['get_config']('smoke')
    config.network.width = 4
    config.data.image_shape = (4, 4, 1)
    own_parts.allow_named(config)
    audit.audit(config)
    yield parts, config


def test_the_network_and_objective_of_the_page_are_trained(page):
  """One step. Of x0, an output of 0 has the error mean |x0|."""
  parts, config = page
  source = build.build_source(config)
  batch = next(build.build_batches(config, source))
  assert batch['image'].shape == (8, 4, 4, 1) and set(batch['label']) == {0, 1}
  objective = build.build_objective(config)
  params = jax.jit(build.init_params(config))(jax.random.key(0))
  gradient = jax.value_and_grad(objective.__call__, has_aux=True)
  key = jax.random.key(1)
  (loss, (metrics, _)), grads = jax.jit(gradient)(
    params, objectives.Context(), key, batch
  )
  assert 0 < loss == metrics['loss'].total
  for path, leaf in jax.tree.leaves_with_path(grads):
    assert np.any(leaf != 0), path  # the label and the level are of use
  plain = parts.objective(
    lambda params, x, noise, cond, *, key=None: jnp.zeros_like(x),
    build.build_schedule(config),
    build.build_noise_input(config),
    conditions.make_condition(),
    'x0',
  )
  found, _ = plain({'network': {}}, objectives.Context(), key, batch)
  expected = np.abs(batch['image']).mean(dtype=np.float64)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_schedule_of_the_page_and_its_inverse(page):
  schedule = build.build_schedule(page[1])
  levels = schedule(np.linspace(0, 1, 5))
  angle = 0.05 + np.linspace(0, 1, 5) * (np.pi / 2 - 0.1)
  np.testing.assert_allclose(levels.snr, np.tan(angle) ** -2, rtol=1e-5)
  again = schedule.from_logsnr(levels.logsnr)
  np.testing.assert_allclose(again.t, levels.t, atol=1e-6)


def test_the_sampler_of_the_page_draws_for_each_image(page):
  """Without fresh noise it is DDIM; with it the level's variance is kept."""
  parts, config = page
  schedule = build.build_schedule(config)
  s, t = schedule(0.4), schedule(0.6)
  denoise = lambda x, level: dj.Prediction(jnp.zeros_like(x))
  keys = jax.random.split(jax.random.key(0), 400)
  x = t.sigma * jax.random.normal(jax.random.key(1), (400, 16))

  def step(sampler, keys, x):
    take = lambda keys, x: sampler.step(
      keys, x, sampler.init(x), denoise, level_s=s, level_t=t
    )
    return jax.jit(take)(keys, x)[0]

  old = step(dj.ddim(), keys, x)
  np.testing.assert_allclose(step(parts.sampler(), keys, x), old, atol=1e-6)
  new = step(build.build_sampler(config, schedule), keys, x)
  one = step(build.build_sampler(config, schedule), keys[3:4], x[3:4])
  np.testing.assert_allclose(one[0], new[3], atol=1e-6)
  error = (2 / x.size) ** 0.5  # of a sample variance of normal numbers
  assert np.var(new) / s.sigma**2 == pytest.approx(1, abs=5 * error)
  correlation = np.corrcoef(np.ravel(old), np.ravel(new))[0, 1]
  assert correlation == pytest.approx((1 - 0.3**2) ** 0.5, abs=0.01)


def test_the_metric_of_the_page_counts(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs/mine/samples').mkdir(parents=True)
  images = np.full((4, 2, 2, 1), 60, np.uint8)
  images[2:] = 190
  path = tmp_path / 'runs/mine/samples/samples.npz'
  np.savez(path, arr_0=images, labels=[0, 1, 1, 1])
  exec(compile(METRIC, 'metric.py', 'exec'), {})
  assert capsys.readouterr().out.split()[-1] == '0.75'


def test_the_page_says_what_a_network_sees_of_a_level():
  """The range of `noise`, with 100 steps and without a time_scale."""
  text = (ROOT / 'docs' / 'own_parts.md').read_text()
  ends = {'step': (0, 99), 'rescaled_step': (0, 990), 'time': (0, 1000)}
  assert all(f'`{name}`' in text for name in NOISE_INPUTS)
  config = smoke(**{'schedule.num_steps': 100})
  levels = dj.NoiseLevel(np.float32([0, 1]), None, None)
  for name, expected in ends.items():
    config.conditioning.noise_input = name
    found = build.build_noise_input(config)(levels)
    np.testing.assert_allclose(found, expected)


def outside(**changes):
  module = toy_parts.__name__
  names = {
    'network.name': f'{module}:Network',
    'schedule.name': f'{module}:Schedule',
    'objective.name': f'{module}:objective',
    'sampling.sampler': f'{module}:sampler',
  }
  config = smoke(**names | changes)
  own_parts.allow_named(config)
  audit.drop_unused(config, audit.DIRECT)
  return config


def test_parts_of_a_users_own_are_given_facts_and_fields():
  config = outside(
    **{'conditioning.labels': False, 'conditioning.dropout': 0.0}
  )
  audit.audit(config)
  assert build.build_network(config) == toy_parts.Network(out_channels=1)
  assert build.build_schedule(config) == toy_parts.Schedule()
  assert callable(build.build_sampler(config, None).step)
  with pytest.raises(
    UserError, match='labels=True needs network.name=unet or dit or vdm'
  ):
    build.build_network(outside(**{'conditioning.labels': True}))
