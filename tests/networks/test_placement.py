"""Tests what layers know of devices, and that split weights are gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from diffusion_jax.networks.placement import has_cudnn_attention, on_gpu, whole_weights
from diffusion_jax.runtime.sharding import make_mesh, on_mesh
from tests import hlo
from tests.networks.meshes import on


def test_weights_are_gathered_in_the_type_of_the_layer():
  """64 numbers have two bytes each; XLA:CPU has no bfloat16 collectives."""
  mesh = make_mesh(1, 8)
  place = NamedSharding(mesh, PartitionSpec('fsdp'))
  w = np.arange(64, dtype=np.float32).reshape(16, 4)
  parts = jax.device_put(w, place)
  layer = on_mesh(mesh, lambda w: whole_weights({'w': w.astype(jnp.float16)}))
  step = jax.jit(layer).lower(parts).compile()
  (one,) = hlo.collectives(step.as_text())
  assert one == ('all-gather', 2 * 64, 8)
  found = step(parts)['w']
  assert found.sharding.is_fully_replicated
  assert_array_equal(found, w)


def test_without_a_mesh_nothing_is_moved():
  weights = {'w': jnp.ones((16, 4))}
  assert whole_weights(weights) is weights


def test_only_the_forward_pass_gathers_and_gradients_may_stay_in_parts():
  """A gradient that must be whole is summed by an all-reduce."""
  mesh = make_mesh(1, 8)
  w = jnp.ones((16, 4))

  def count(function):
    return str(jax.make_jaxpr(on_mesh(mesh, function))(w)).count('sharding_constraint[')

  loss = lambda w: jnp.sum(whole_weights(w) ** 2)
  assert count(loss) == count(jax.grad(loss)) == 2
  push = lambda w: jax.jvp(loss, (w,), (w,))
  assert count(push) == 2
  gradient = jax.jit(on_mesh(mesh, jax.grad(loss)))(w)
  assert_array_equal(gradient, 2 * w)


def answers():
  return on_gpu(), has_cudnn_attention()


@pytest.mark.parametrize(
  'kind, platform, expected',
  [
    ('NVIDIA H100 80GB HBM3', 'gpu', (True, True)),
    ('NVIDIA GeForce RTX 3090', 'gpu', (True, True)),
    ('NVIDIA GB200', 'gpu', (True, True)),
    ('NVIDIA GeForce RTX 2080 Ti', 'gpu', (True, False)),
    ('Tesla V100-SXM2-16GB', 'gpu', (True, False)),
    ('AMD Instinct MI300X', 'gpu', (True, False)),
    ('TPU v5 lite', 'tpu', (False, False)),
  ],
)
def test_the_mesh_in_use_says_what_its_devices_are(kind, platform, expected):
  assert on(kind, answers, platform)() == expected


def test_the_programs_mesh_is_one_of_cpus_and_without_one_nothing_is_known():
  mesh = make_mesh(1, 1)
  assert on_mesh(mesh, answers)() == answers() == (False, False)
