"""No two consumers of a seed draw the same numbers."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax
import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.core.keys import STREAMS, fold_in_each, split_key, stream
from diffusion_jax.programs import edit
from diffusion_jax.training import objectives
from diffusion_jax.runtime.sharding import replicated
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step
from tests.programs.conftest import smoke

SHAPE = (8, 8, 1)
INDEX = np.arange(4)


def test_programs_take_every_key_from_a_stream_of_their_own():
  """No key is made elsewhere, and no stream has two consumers."""
  names = []
  package = Path(diffusion_jax.__file__).parent
  folders = 'programs', 'families', 'runs', 'build'
  for path in (p for name in folders for p in package.glob(f'{name}/*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        made = ast.unparse(node).removeprefix('jax.random.')
        assert made not in ('key', 'PRNGKey', 'wrap_key_data'), path
      if isinstance(node, ast.Call) and ast.unparse(node.func) == 'stream':
        name = node.args[1]
        if isinstance(name, ast.Constant):
          names.append(name.value)
        else:  # each metric has one
          assert ast.unparse(name) == 'metric', path
          names.extend(families.METRICS)
  assert sorted(names) == sorted(STREAMS)


def training_noise(schedule, seed):
  """eps of steps 0..3, batches of one image, read off the gradient."""

  def network(params, x, noise, cond, *, key=None):
    return params

  objective = objectives.denoising(
    objectives.Network(network, dj.logsnr_input),
    schedule,
    times=dj.uniform_times,
  )
  optimizer = optax.sgd(1.0)
  step = jax.jit(make_train_step(objective, optimizer, lambda step: 0.0))
  batch = {'image': jnp.zeros((1, *SHAPE))}
  state, noise = init_state({'network': jnp.zeros((1, *SHAPE))}, optimizer), []
  for _ in INDEX:
    before = state.params['network']
    state, _ = step(state, batch, stream(seed, 'training'))
    # the gradient of the mean of (params - eps)^2
    gradient = before - state.params['network']
    noise.append(before - gradient * before.size / 2.0)
  return jnp.concatenate(noise)


def sampling_noise(config, schedule):
  """The first noise of images 0..3, and that of each step but the last."""
  params = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), families.abstract_params(config)
  )  # so that eps is 0
  mesh = build.build_mesh(config)
  params = jax.device_put(params, replicated(mesh))
  labels = INDEX.astype(np.int32)
  path = (
    families.of(config)
    .generate(config, mesh)(params, INDEX, {'label': labels})
    .swapaxes(0, 1)
  )
  alpha = dj.level_grid(schedule, len(path) - 1).alpha
  ratio = (alpha[1:] / alpha[:-1]).reshape(-1, 1, 1, 1, 1)
  steps = path[1:-1] - ratio[:-1] * path[:-2]
  return jnp.concatenate([path[0], *steps])


def test_noise_of_training_and_of_sampling_differs():
  """At seed 0, where step 1 of image 1 was once that of training step 1."""
  config = smoke(**{
    'sampling.eta': 1.0,
    'sampling.clip': False,
    'sampling.trajectory': True,
    'sampling.num_samples': 4,
    'sampling.batch_size': 4,
  })  # fmt: skip
  schedule = build.build_schedule(config)
  drawn = {
    'training': training_noise(schedule, config.seed),
    'sampling': sampling_noise(config, schedule),
    'edit': dj.prior_sample(
      split_key(fold_in_each(edit.root_key(config), INDEX), 2)[0],
      (4, *SHAPE),
      schedule(1.0),
    ),
    'noise': dj.noise_image(
      stream(config.seed, 'noise'), jnp.zeros(SHAPE), schedule, [1]
    ),
  }
  rows = np.concatenate([np.reshape(x, (len(x), -1)) for x in drawn.values()])
  assert len(rows) == 4 + 4 * 4 + 4 + 1
  # of 64 independent numbers: 1/8; the same noise, however scaled, has 1
  between = np.corrcoef(rows) - np.eye(len(rows))
  assert np.abs(between).max() < 0.7
