"""No two consumers of a seed draw the same numbers."""

import ast
import collections
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax
import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.run.drawing import frames_of, generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.keys import fold_each, split_key
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import STREAMS, stream
from diffusion_jax.training import objectives
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step
from tests.app.conftest import normal_params, smoke
from tests.jitted import level_grid

SHAPE = (8, 8, 1)
INDEX = np.arange(4)
# Metrics of real images have a stream each, by their names.
OF_METRICS = set().union(*(kind.metrics for kind in store.KINDS))


def test_every_key_is_from_a_stream_with_one_consumer():
  """Code that runs the equations makes its keys in no other way."""
  names = collections.Counter()
  package = Path(diffusion_jax.__file__).parent
  for name in ('app', 'demos', 'metrics'):
    for path in (package / name).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
          called = ast.unparse(node).removeprefix('jax.random.')
          assert called not in ('key', 'PRNGKey', 'wrap_key_data'), path
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'stream':
          if len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
            names[node.args[1].value] += 1
  assert set(names.values()) == {1} and not OF_METRICS & {*names}
  assert len(names) > 10 and {*names} <= {*STREAMS}
  outside = {'evaluation_images'}  # metrics of real images
  assert {*STREAMS} - {*names} <= OF_METRICS | outside


def training_noise(schedule, seed):
  """Returns eps of steps 0..3, with batches of one image, from the gradient."""

  def network(params, x, noise, cond, *, key=None):
    return params

  objective = objectives.denoising(
    dj.Network(network, dj.logsnr_input), schedule, times=dj.uniform_times
  )
  optimizer = optax.sgd(1.0)
  step = jax.jit(make_train_step(objective, optimizer, lambda step: 0.0))
  batch = {'x': jnp.zeros((1, *SHAPE))}
  state, noise = init_state({'network': jnp.zeros((1, *SHAPE))}, optimizer), []
  for _ in INDEX:
    before = np.asarray(state.params['network'])
    state, _ = step(state, batch, stream(seed, 'training'))
    # the gradient of the mean of (params - eps)^2
    gradient = before - state.params['network']
    noise.append(before - gradient * before.size / 2.0)
  return np.concatenate(noise)


def sampling_noise(model, schedule):
  """Returns the first noise of images 0..3, and the noise of the steps."""
  params = normal_params(model, deviation=0)  # so that eps is 0
  mesh = make_mesh(model.config)
  _, states, _ = generate(model, mesh)(params, INDEX, {'label': INDEX})
  path = np.stack(list(frames_of(model, mesh, params, states).values()))
  alpha = np.asarray(level_grid(schedule, len(path) - 1).alpha)
  ratio = (alpha[1:] / alpha[:-1]).reshape(-1, 1, 1, 1, 1)
  steps = path[1:-1] - ratio[:-1] * path[:-2]
  return np.concatenate([path[0], *steps])


def test_noise_of_training_and_of_sampling_differs():
  """At seed 0 step 1 of image 1 once had the noise of training step 1."""
  config = smoke(**{'sampling.sampler.eta': 1.0, 'sampling.bound': None})
  model: Any = make_model(config, RunFolder.at('nowhere'))
  schedule = model.noisy.schedule()

  @jax.jit
  def edit_and_noise(edit_key, noise_key):
    keys, _ = split_key(fold_each(edit_key, INDEX), 2)
    edit = dj.prior_sample(keys, (4, *SHAPE), schedule(1.0))
    return edit, dj.noise_image(noise_key, jnp.zeros(SHAPE), schedule, [1])

  drawn = (
    training_noise(schedule, config.seed),
    sampling_noise(model, schedule),
    *edit_and_noise(stream(0, 'edit'), stream(config.seed, 'measurement')),
  )
  rows = np.concatenate([np.reshape(x, (len(x), -1)) for x in drawn])
  assert len(rows) == 4 + 4 * 4 + 4 + 1
  # of 64 independent numbers: 1/8; the same noise, however scaled, has 1
  between = np.corrcoef(rows) - np.eye(len(rows))
  assert np.abs(between).max() < 0.7
