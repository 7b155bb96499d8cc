"""Law: with `fixed_parts` a training has the same bits on 1, 2, 4 and 8 devices, and any cores.

Weights, averages and logged losses are equal, and so are those of a run that continues on another
number of devices. It holds with XLA's own flags, as users have them: without fusion emitters and at
optimization level 0, as other tests compile, a U-Net differs. EDM2 has no row: on 2 devices Adam's
second moments of its scalar gains differ in the last bit, while first moments are equal. NPROC
stands for the cores of a machine. Planted and caught by the default rows: a device adds its parts
by `jnp.sum`, in place of the tree; `fix_threads` sets nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from diffusion_jax.runtime import sharding
from diffusion_jax.runtime.compiling import options
from diffusion_jax.training import objectives, optimizer
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step
from tests.app.conftest import assert_same, lines_of, params_of
from tests.rows import slow

ROOT = Path(__file__).parents[2]
STEPS = 3
ADAM, _ = optimizer.optimizer_and_rate(10, clip_norm=0.1)
NETWORKS = {
  'mlp': MLP(16, 1, out_channels=1),
  'dit': DiT(16, 1, 2, out_channels=1),
  'lengths': DiT(16, 1, 2, out_channels=1, inputs=Inputs(valid=True)),
  'unet': UNet(
    channels=16,
    out_channels=1,
    multipliers=(1, 2),
    num_blocks=1,
    num_groups=8,
    attention_resolutions=(4,),
    dropout=0.1,
  ),
}


def trained(name, count, fixed_parts, rule=ADAM):
  """Returns the state and the metrics after steps on `count` devices."""
  network, mesh = NETWORKS[name], sharding.make_mesh(count, 1)
  valid = name == 'lengths'  # of the rows of an image
  objective = objectives.denoising(
    dj.Network(
      network_fn(network),
      dj.step_input(100),
      condition=objectives.make_condition(labels=False, valid=valid),
    ),
    dj.DiscreteSchedule.from_betas(dj.linear_betas(100)),
    times=dj.step_times(100),
  )
  rng = np.random.default_rng(0)
  x = rng.standard_normal((16, 8, 8, 1), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x[:1], np.zeros(1, np.float32))['params']
  params = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), shapes)
  state = jax.jit(lambda params: init_state(params, rule))({'network': params})
  state = jax.device_put(state, sharding.replicated(mesh))
  step = make_train_step(
    objective, rule, optimizer.ema_decay(0.9), fixed_parts=fixed_parts, skip_nonfinite=True
  )
  step = jax.jit(sharding.on_mesh(mesh, step), compiler_options=options(mesh, 'fast'))
  lengths = {'valid': np.arange(8) < rng.integers(1, 5, (16, 1)) * 2} if valid else {}
  batch = sharding.to_global(mesh, {'x': x} | lengths)
  for _ in range(STEPS):
    state, metrics = step(state, batch, jax.random.key(1), (), 1e-2)
  return jax.device_get((state, metrics))


ALL = 8, 4, 2, 1


def check(name, counts, fixed_parts=8):
  expected = trained(name, counts[0], fixed_parts)
  for count in counts[1:]:
    assert_same(trained(name, count, fixed_parts), expected)


def test_steps_have_the_same_bits():
  check('mlp', (2, 1), fixed_parts=4)


@pytest.mark.parametrize('name', [slow(name) for name in NETWORKS])
def test_steps_have_the_same_bits_as_users_compile_them(name):
  run('-c', f'from {__name__} import *; check({name!r}, ALL)')


def run(*command, devices=8, cores=2):
  """Runs Python with XLA's own flags: the tests' flags compile other programs."""
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'TEST_XLA_OPTIMIZATION': 'default',
    'NPROC': str(cores),
  }
  ended = subprocess.run(
    [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert ended.returncode == 0, ended.stderr[-2000:]
  return ended.stdout


SUMS = """
import hashlib
import jax, numpy as np
from diffusion_jax.runtime import start_up
start_up.fix_threads()
x, y = np.random.default_rng(0).standard_normal((2, 4096, 32), np.float32)
sums = jax.jit(lambda x, y: (x.T @ y, (x * y).sum(), (x * y).sum(0)))(x, y)
print(hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in sums)).hexdigest())
"""


def test_sums_have_the_same_bits_on_any_cores():
  """`fix_threads` is set; a product of 4,096 rows is cut for threads."""
  assert len({run('-c', SUMS, devices=n, cores=cores) for n, cores in ((1, 1), (4, 16))}) == 1


TRAININGS = {
  'table': ('regression', ''),
  # Its products of 512 rows, and products of one channel, are cut for threads.
  'unet': (
    'digits',
    '--config.network.dropout=0.1 --config.network.channels=32 --config.network.num_groups=8 '
    '--config.training.batch_size=64',
  ),
  'dit': ('digits_dit', ''),
}


def train(name, workdir, steps, count):
  """Runs launch.py as a user does, on a machine of other cores for other devices."""
  config, others = TRAININGS[name]
  fields = f"""
    --config=configs/{config}.py:smoke --workdir={workdir} --config.training.num_steps={steps}
    --config.training.log_every=1 --config.optimizer.decay=constant
    --config.training.machine.fixed_parts=8 --config.training.machine.mesh={count},1
    --config.training.checkpoints.every=2 --config.training.sample_every=0
    {others or '--config.training.batch_size=16'}
  """
  run('launch.py', *fields.split(), devices=count, cores={8: 2, 4: 1, 2: 3, 1: 16}[count])


def bits_of(workdir):
  losses = [lines_of(workdir, name) for name in ('loss', 'grad_norm')]
  return params_of(workdir, 'average'), params_of(workdir, 'raw'), losses


@pytest.mark.parametrize('name', [slow(name) for name in TRAININGS])
def test_trainings_of_the_program_have_the_same_bits(name, tmp_path):
  """Also one that is stopped on 1 device, and continues on 4, then on 2."""
  for count in ALL:
    train(name, tmp_path / str(count), 6, count)
  expected = bits_of(tmp_path / '8')
  for count in ALL[1:]:
    assert_same(bits_of(tmp_path / str(count)), expected)
  for steps, count in (2, 1), (4, 4), (6, 2):
    train(name, tmp_path / 'moved', steps, count)
  assert_same(bits_of(tmp_path / 'moved'), expected)
  assert len(expected[2][0]) == 6
