"""What XLA makes of training steps on an H100, compiled without one.

Counts and ratios of reduced networks; `.ci/compilers` runs them.
"""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from diffusion_jax.app.kinds import store
from diffusion_jax.app.train import setup
from diffusion_jax.runtime import compiling, sharding
from diffusion_jax.runtime.run_folder import RunFolder
from examples import plan
from tests import hlo
from tests.app.conftest import trial

PLUGINS = 'jax_cuda12_plugin', 'jax_cuda13_plugin'
pytestmark = [
  pytest.mark.compilers,
  pytest.mark.skipif(
    not any(map(importlib.util.find_spec, PLUGINS)),
    reason='no compiler for GPUs is installed: run .ci/compilers',
  ),
]
BLOCKS, BATCH, WIDTH, TOKENS = 2, 512, 128, 64
ACTIVATION = BATCH * TOKENS * WIDTH  # elements, many more than parameters
DIT = {
  'training.machine.mesh': (1, 1),
  'training.batch_size': BATCH,
  'network.channels': WIDTH,
  'network.num_heads': 2,
  'network.patch_size': 1,
  'network.num_blocks': BLOCKS,
  'network.dtype': 'bfloat16',
}


@pytest.fixture(scope='module', autouse=True)
def h100():
  """The topology; JAX cannot load stored programs without the device."""
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  yield plan.devices_of('h100x1')
  jax.config.update('jax_enable_compilation_cache', True)
  compilation_cache.reset_cache()


def mesh_of(topology):
  return sharding.make_mesh(1, 1, devices=topology[0])


def training_step(config, topology):
  """Returns the compiled training step of a config."""
  step, shapes = setup.abstract_step(config, mesh_of(topology), RunFolder.at('none'))
  return step.lower(*shapes).compile(topology[1])


@pytest.fixture(scope='module')
def step(h100):
  """(*flags) -> the compiled training step of DiT."""

  @functools.cache
  def compiled(*flags):
    config = store.with_flags(trial('digits_dit', **DIT), flags)
    return training_step(config, h100)

  return compiled


def operations(compiled):
  """Returns (kind, type) of the operations that are kernels or loops."""
  found = hlo.operations(compiled.as_text())
  free = {'parameter', 'tuple', 'get-tuple-element', 'bitcast', 'constant'}
  return [(x.kind, x.type) for x in found if x.kind not in free]


def test_blocks_are_no_loop_and_their_residuals_are_not_stacked(step):
  found = operations(step())
  assert not {'while', 'dynamic-update-slice'} & {kind for kind, _ in found}


def test_no_activation_is_float32(step):
  """LayerNorm's statistics and the loss are computed within kernels."""
  types = [x for kind, x in operations(step())]
  assert max(size for x in types for size in hlo.elements(x, 'bf16')) >= ACTIVATION
  assert all(size < ACTIVATION for x in types for size in hlo.elements(x, 'f32'))


def test_a_block_stores_19_activations(step):
  """x, n1, h1, q, k, v, attention, proj, n2, h2, mlp_out, and 2 of 4 A.

  The GELU is computed again: its tanh, 4 A more, is not stored.
  """
  memory = step().memory_analysis()
  assert memory.temp_size_in_bytes < 1.1 * (19 * BLOCKS + 8) * 2 * ACTIVATION


@pytest.mark.slow
def test_remat_is_not_undone_by_common_subexpressions(step):
  saved = step(('network.remat', 'True')).memory_analysis().temp_size_in_bytes
  assert saved < 0.7 * step().memory_analysis().temp_size_in_bytes


def test_biases_and_activations_are_epilogues_of_products(step):
  text = step().as_text()
  assert text.count('"epilogue":"BIAS_GELU_AUX"') == BLOCKS
  assert text.count('"epilogue":"BIAS') >= 3 * BLOCKS
  assert '__cudnn$fmha' in text  # chosen by attention='auto'


@pytest.mark.slow
def test_the_state_of_a_u_net_is_not_copied_to_other_layouts(h100):
  """The program takes kernels as cuDNN wants them, [out, height, width, in]."""
  config = trial(
    'digits',
    **{
      'training.machine.mesh': (1, 1),
      'training.batch_size': 64,
      'network.channels': 128,
      'network.num_groups': 32,
      'network.dtype': 'bfloat16',
      'network.multipliers': (1, 2),
    },
  )
  compiled = training_step(config, h100)
  params = compiled.input_formats[0][0].params['network']
  order = params['conv_in']['kernel'].layout.major_to_minor
  assert order == (3, 0, 1, 2)
  found = operations(compiled)
  copies = [x for kind, x in found if kind == 'copy' and hlo.elements(x, 'f32')]
  assert sum(hlo.size(x) > 1e5 for x in copies) == 0
  convolutions = compiled.as_text().count('custom_call_target="__cudnn$conv')
  transposes = sum(kind == 'transpose' for kind, _ in found)
  assert 0 < convolutions and transposes <= 2 * convolutions


def test_where_xla_drops_factors_of_biases_it_does_not_add_them(h100):
  """In some versions 2 (x w + b) and 2 x w + b are the same program."""
  place = sharding.replicated(mesh_of(h100))
  x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=place)
  b = jax.ShapeDtypeStruct((256,), jnp.bfloat16, sharding=place)

  def body(function):
    text = jax.jit(function).lower(x, x, b).compile(h100[1]).as_text()
    return re.sub(r'metadata=\{[^}]*\}|jit_\w*', '', text[text.index('ENTRY') :])

  def factor_within(x, w, b):
    return 2.0 * (x @ w + b[None])

  def factor_outside(x, w, b):
    return 2.0 * (x @ w) + b[None]

  def along_rows(x, w, b):
    return x @ w + b[:, None]

  def along_columns(x, w, b):
    return x @ w + b[None]

  wrong = body(factor_within) == body(factor_outside)
  wrong |= body(along_rows) == body(along_columns)
  assert compiling.adds_biases() == (not wrong)
