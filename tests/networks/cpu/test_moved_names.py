"""A JAX that has moved its interpreters costs networks speed, and none of them its numbers.

A process without these modules computes networks and their gradients, as this one does. Planted
fault: an import of `jax.interpreters` at the top of `networks/cpu/half.py`.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import cpu
from diffusion_jax.networks.cpu import bilinear, half
from tests.networks.test_options import NETWORKS
from tests.rows import slow

ROOT = Path(__file__).parents[3]
MOVED = """
jax.interpreters:ad jax.interpreters:batching jax.interpreters:mlir jax.core:ShapedArray
jax.interpreters.partial_eval:dce_jaxpr jax.extend.core:ClosedJaxpr jax.extend.core:Primitive
jax.extend.core:jaxpr_as_fun
""".split()
HIDING = """
import sys, warnings
import flax, jax, jax.extend.core, jax.interpreters, optax
for name in [x for x in sys.modules if x.startswith('jax.interpreters.')]:
  sys.modules[name] = None
for name in ('ad', 'batching', 'mlir', 'partial_eval', 'pxla', 'xla'):
  jax.interpreters.__dict__.pop(name, None)
with warnings.catch_warnings(record=True) as said:
  warnings.simplefilter('always')
  from tests.networks.cpu import test_moved_names
print(*{str(x.message) for x in said if 'networks are slower' in str(x.message)}, sep='\\n')
test_moved_names.write(*sys.argv[1:])
"""


def numbers(name, dtype):
  """Returns the outputs and the gradient of a network."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
  network = NETWORKS[name](dtype=dtype)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(2))
  params = jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(a.dtype) / 4, shapes)

  def loss(params):
    y = network.apply(params, x, jnp.linspace(0.2, 0.8, 2))
    return jnp.square(y).sum(), y

  gradient, y = jax.jit(jax.grad(loss, has_aux=True))(params)
  gradient = [np.ravel(np.float32(a)) for a in jax.tree.leaves(gradient)]
  return {'output': np.float32(y), 'slope': np.concatenate(gradient)}


def write(path, *which):
  np.savez(path, **numbers(*which))


@pytest.fixture
def said(monkeypatch):
  """Yields the warnings of a version of JAX."""
  lines = []
  monkeypatch.setattr(cpu, '_warn', lines.append)
  return lines


@pytest.mark.parametrize('name', MOVED)
def test_a_name_that_has_moved_leaves_what_every_platform_has(name, said, monkeypatch):
  place, _, attribute = name.partition(':')
  monkeypatch.delattr(sys.modules[place], attribute)
  if f'{place}.{attribute}' in sys.modules:
    monkeypatch.setitem(sys.modules, f'{place}.{attribute}', None)
  cpu.parts.cache_clear()
  plain, double = lambda x: 2.0 * x, lambda x, w, how: x * w
  functions = [
    half.elementwise('double', plain) is plain,
    half.primitive_or(half._repeat, half._spreading) is half._repeat,
    bilinear.bilinear('double', double, bilinear.transposes(double)) is double,
  ]
  assert all(functions) and len(said) == 3 and attribute in said[0]
  monkeypatch.undo()
  cpu.parts.cache_clear()
  assert half.elementwise('double', plain) is not plain


def test_every_part_is_tried():
  assert {name.partition(':')[2] for name in MOVED} == {*cpu.Parts._fields}


# The two have all primitives; a compilation of the U-Net's gradient takes 8 s, twice.
@pytest.mark.parametrize('which', [('dit', 'bfloat16'), slow(('unet', 'float32'))])
def test_networks_without_the_interpreters_have_the_same_numbers(which, tmp_path):
  path = tmp_path / 'numbers.npz'
  done = subprocess.run(
    [sys.executable, '-c', HIDING, str(path), *which], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('networks are slower on CPUs with this version of JAX: ')
  with np.load(path) as found:
    for name, expected in numbers(*which).items():
      rounding = 1e-2 if 'bfloat16' in which else 1e-5
      far = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
      assert far < rounding, (name, far)
