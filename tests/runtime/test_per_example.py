"""What is computed image by image, and batches that are kept in files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.runtime.per_example import join_parts, one_ahead, per_example, write_parts
from diffusion_jax.runtime.sharding import make_mesh
from tests.app.conftest import refused


@pytest.mark.parametrize('size', [0, 12])
def test_an_image_has_its_own_key_in_any_batch(size):
  """The key is fold_in(root, i); rows that fill the batch are dropped."""
  roots = {'a': jax.random.key(1), 'b': jax.random.key(2)}
  draw = jax.vmap(lambda key: jax.random.uniform(key))

  def function(params, keys, inputs):
    return params * inputs + draw(keys['a']), draw(keys['b'])

  index, inputs = np.array([4, 0, 7]), np.array([1.0, 2.0, 3.0], np.float32)
  found = per_example(function, make_mesh(4, 2), roots, size)(jnp.float32(10.0), index, inputs)
  a, b = (
    [jax.random.uniform(jax.random.fold_in(root, int(i))) for i in index] for root in roots.values()
  )
  assert_allclose(found[0], 10.0 * inputs + np.array(a), rtol=1e-6)
  assert_allclose(found[1], np.array(b), rtol=1e-6)


def test_a_function_is_traced_with_the_mesh_in_use():
  """Networks choose by it what is fast on the devices."""
  found = []

  def function(params, keys, inputs):
    found.append(jax.sharding.get_abstract_mesh().shape_tuple)
    return inputs

  mesh = make_mesh(4, 2)
  index = jax.ShapeDtypeStruct((8,), jnp.int32)
  jax.eval_shape(per_example(function, mesh, jax.random.key(0)).compute, (), index, index)
  assert found == [mesh.abstract_mesh.shape_tuple]


def test_the_next_part_is_dispatched_before_one_is_fetched():
  """At most one part runs ahead, and parts of any length share a program."""
  done, traced = [], []

  def function(params, keys, inputs):
    traced.append(inputs.shape)
    return params * inputs

  compute = per_example(function, make_mesh(4, 2), jax.random.key(0), size=8)

  def start(part):
    done.append(f'start {part}')
    index = np.arange(3 * part, min(3 * part + 3, 11))
    fetch = compute.start(jnp.float32(2.0), index, index.astype(np.float32))

    def fetched():
      done.append(f'fetch {part}')
      return fetch()

    return fetched

  found = []
  for part, result in one_ahead(start, range(4)):
    done.append(f'use {part}')
    found.extend(result)
  assert found == [2.0 * i for i in range(11)]
  assert traced == [(8,)]
  assert ', '.join(done) == (
    'start 0, start 1, fetch 0, use 0, start 2, fetch 1, use 1, '
    'start 3, fetch 2, use 2, fetch 3, use 3'
  )
  assert list(one_ahead(start, [])) == []


class Squares:
  """Squares of 0..6 in batches of three; call number `stop_at` is killed."""

  def __init__(self, stop_at=None):
    self.started, self.stop_at = [], stop_at

  def start(self, index):
    self.started.append(index.tolist())

    def finish():
      if len(self.started) == self.stop_at:
        raise KeyboardInterrupt
      return {'square': index**2, 'pair': np.stack([index, -index], axis=1)}

    return finish


def test_a_killed_computation_goes_on(tmp_path):
  folder, killed, again = tmp_path / 'parts', Squares(3), Squares()
  with pytest.raises(KeyboardInterrupt):
    write_parts(killed.start, 7, 3, folder, 'squares')
  # One batch is under way while the one before it is written.
  assert [x.name for x in folder.iterdir()] == ['00000000.npz']
  paths = write_parts(again.start, 7, 3, folder, 'squares')
  assert again.started == [[3, 4, 5], [6]]
  arrays = join_parts(paths)
  assert_array_equal(arrays['square'], np.arange(7) ** 2)
  assert_array_equal(arrays['pair'][:, 1], -np.arange(7))


def test_a_damaged_file_is_named(tmp_path):
  paths = write_parts(Squares().start, 7, 3, tmp_path, 'squares')
  for content in ({'square': np.zeros(3)}, {'square': np.zeros(3), 'pair': np.zeros((3, 5))}):
    np.savez(paths[1], **content)
    refused('00000003.npz is damaged .*: delete it', join_parts, paths)
