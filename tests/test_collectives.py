"""benchmarks/collectives.py: programs whose communication is known."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import collectives
from diffusion_jax.app.modes import train_setup
from diffusion_jax.runtime import sharding
from tests.app.conftest import trial, unet_smoke as smoke


def compiled(function, mesh, places_in, places_out, *shapes):
  put = functools.partial(NamedSharding, mesh)
  arrays = [
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=put(place))
    for shape, place in zip(shapes, places_in, strict=True)
  ]
  step = jax.jit(function, out_shardings=put(places_out))
  return step.lower(*arrays).compile().as_text()


ALL, SPLIT = PartitionSpec(), PartitionSpec('fsdp')


def test_a_sum_over_devices_is_one_all_reduce():
  mesh = sharding.make_mesh(1, 8)
  text = compiled(
    lambda x: x.sum(axis=0), mesh, [SPLIT], ALL, (16, 5, 7)
  )  # of [5, 7] float32
  (one,) = collectives.find(text, 8)
  assert one == ('all-reduce', 1, 4 * 5 * 7, 8)
  assert collectives.wire_bytes(one) == 2 * 7 / 8 * 140


def test_a_copy_of_what_is_split_is_one_all_gather():
  mesh = sharding.make_mesh(2, 4)
  text = compiled(lambda x: x * 2.0, mesh, [SPLIT], ALL, (8, 3))
  (one,) = collectives.find(text, 8)
  assert one == ('all-gather', 1, 4 * 8 * 3, 4)
  assert collectives.wire_bytes(one) == 3 / 4 * 96


def test_a_loop_repeats_its_collectives():
  """Five layers, each gathered in its turn; the second loop is of two."""

  def layers(x, w):
    def one(x, w):
      return jnp.tanh(x @ w), None

    def twice(i, x):
      return jax.lax.scan(one, x, w)[0]

    return jax.lax.fori_loop(0, 2, twice, x)

  mesh = sharding.make_mesh(1, 8)
  text = compiled(
    layers, mesh, [SPLIT, PartitionSpec(None, None, 'fsdp')], SPLIT,
    (8192, 16), (5, 16, 16),
  )  # fmt: skip
  found = collectives.find(text, 8)
  assert len(found) == 10 and found[0].bytes == 4 * 16 * 16


def test_lines_of_other_machines_are_read():
  text = """
  %s = (bf16[4,8]{1,0}, f32[3]{0}) all-reduce-start(%a, %b), replica_groups=[2,4]<=[8], to_apply=%add
  %d = (bf16[4,8]{1,0}, f32[3]{0}) all-reduce-done(%s)
  %r = f32[2,8]{1,0} reduce-scatter(%c), replica_groups={{0,1,2,3}}, dimensions={0}
  %g = f32[6]{0} all-gather(%e), replica_groups=mesh['a'=2,'b'=4], device_ids=([8]) {'a','b':(1)2}
  %p = pred[16]{0} collective-permute(%e), source_target_pairs={{0,1},{1,0}}
  """  # noqa: E501
  assert collectives.find(text, 8) == [
    ('all-reduce', 2, 2 * 32 + 4 * 3, 4),
    ('reduce-scatter', 1, 4 * 4 * 16, 4),
    ('all-gather', 1, 24, 4),
    ('collective-permute', 1, 16, 8),
  ]


def test_data_parallelism_sums_the_gradients_once():
  """One all-reduce: of each gradient, and a few numbers for the metrics."""
  # a table of classes is read twice: its gradient would be summed twice
  config = smoke(**{
    'training.mesh': (8, 1),
    'conditioning.labels': False,
    'conditioning.dropout': 0.0,
  })  # fmt: skip
  step, like = collectives.compile_step(config)
  (one,) = collectives.find(step.as_text(), 8)
  assert (one.kind, one.group) == ('all-reduce', 8)
  leaves = jax.tree.leaves(like.params)
  gradients = 4 * sum(leaf.size for leaf in leaves)
  assert gradients <= one.bytes < gradients + 100
  whole, part = collectives.state_bytes(like)
  assert whole == part > 4 * gradients  # nothing is large enough to be split


def split_all(monkeypatch):
  """Splits small arrays as well."""
  split = functools.partial(sharding.fsdp_sharding, min_size=16)
  monkeypatch.setattr(train_setup, 'fsdp_sharding', split)


@pytest.mark.slow
def test_the_state_of_fsdp_is_split(monkeypatch):
  split = functools.partial(sharding.fsdp_sharding, min_size=16)
  monkeypatch.setattr(
    'diffusion_jax.app.modes.train_setup.fsdp_sharding', split
  )
  # of one resolution, leaves too small to be split are more than a tenth
  fields = {'training.mesh': (1, 8), 'network.multipliers': (1, 2)}
  step, like = collectives.compile_step(smoke(**fields))
  whole, part = collectives.state_bytes(like)
  assert part < 1.1 / 8 * whole
  found = collectives.find(step.as_text(), 8)
  assert {one.kind for one in found} >= {'all-gather', 'all-reduce'}


def test_fsdp_sends_weights_of_a_transformer_and_no_tokens(monkeypatch):
  """Of images, only what adaLN takes; all together less than one map."""
  split = functools.partial(sharding.fsdp_sharding, min_size=16)
  monkeypatch.setattr(
    'diffusion_jax.app.modes.train_setup.fsdp_sharding', split
  )
  config = trial('digits_dit', **{
    'training.mesh': (1, 8),
    'network.num_heads': 2,
    'training.batch_size': 64 * 8,  # tokens are many times the weights
  })  # fmt: skip
  step, like = collectives.compile_step(config)
  whole, part = collectives.state_bytes(like)
  assert part < 1.1 / 8 * whole
  tokens = 4 * config.training.batch_size * 16 * config.network.channels
  found = collectives.find(step.as_text(), 8)
  assert sum(one.bytes for one in found) < tokens
  assert {one.kind for one in found} >= {'all-gather', 'all-reduce'}


def test_fsdp_sends_each_weight_of_edm2_once_and_its_gradient(monkeypatch):
  """Gathered for both passes, summed: (1 + 2) 7 / 8 of the parameters' bytes.

  The sums of squares of rows in parts and those of the metrics are the rest.
  """
  split = functools.partial(sharding.fsdp_sharding, min_size=16)
  monkeypatch.setattr(
    'diffusion_jax.app.modes.train_setup.fsdp_sharding', split
  )
  config = trial('digits_edm2', **{
    'training.mesh': (1, 8),
    'network.multipliers': (1,),  # compiles in half of the time
    'network.attention_resolutions': (),
    'training.batch_size': 64 * 8,  # a vector of each example is large
  })  # fmt: skip
  step, like = collectives.compile_step(config)
  weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(like.params))
  found = collectives.find(step.as_text(), 8)
  sent = sum(map(collectives.wire_bytes, found))
  assert 2.6 * weights < sent < 2.9 * weights
