"""A gradient whose sums have one order on any number of devices.

The batch is cut into parts, whose number does not depend on the devices. Every device computes the
gradients of its parts one after the other, by the same program whether it has one part or eight,
and their sum is a tree: first over a device's parts, which are neighbours, then over the devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from diffusion_jax.aliases import Params
from diffusion_jax.planning.loops import repeated
from diffusion_jax.training.divisions import with_fixed_divisions
from diffusion_jax.training.objectives import Loss, Objective

Array = jax.Array


def in_fixed_parts(objective: Objective, parts: int) -> Callable[..., tuple[Loss, Params]]:
  """Returns f(params, context, key, batch) -> ((loss, aux), gradient), see `accumulated`.

  Of the mesh in use the devices must divide `parts`. Raises ValueError for an objective that is
  not separable, and for parts that are not a power of 2.
  """
  if not objective.separable:
    raise ValueError(
      f'fixed_parts must be None, got {parts}: this loss needs the whole batch, '
      'since it is not the mean over its parts'
    )
  if parts & (parts - 1):
    raise ValueError(f'fixed_parts must be a power of 2, got {parts}')
  gradient = with_fixed_divisions(jax.value_and_grad(objective.loss, has_aux=True))

  def mean_gradient(params, context, key, batch):
    mesh = jax.sharding.get_abstract_mesh()
    mesh = AbstractMesh((1,), ('data',), (AxisType.Auto,)) if mesh.empty else mesh
    if parts % mesh.size:
      raise ValueError(f'fixed_parts={parts} cannot be split over the {mesh.size} devices')
    # A device would otherwise compile the draws into what reads them.
    inputs, keys = jax.lax.optimization_barrier(objective.draw(key, batch, context))
    inputs = jax.tree.map(lambda x: _cut(x, parts), inputs)

    def of_device(params, context, keys, indices, inputs):
      def of_part(index, rows):
        part_keys = jax.tree.map(lambda key: jax.random.fold_in(key, index), keys)
        # Nothing of a part is computed outside of the loop over the parts.
        arguments = jax.lax.optimization_barrier((params, context, rows, part_keys))
        (loss, (metrics, records)), grads = gradient(*arguments)
        return jax.lax.optimization_barrier(((loss, metrics, grads), records))

      terms, records = _one_by_one(of_part, context.step, indices, inputs)
      return jax.tree.map(lambda x: _total(x, mesh), terms), records

    whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
    of_device = jax.shard_map(
      of_device,
      mesh=mesh,
      in_specs=(whole, whole, whole, split, split),
      out_specs=(whole, split),
      check_vma=False,
    )
    terms, records = of_device(params, context, keys, jnp.arange(parts), inputs)
    loss, metrics, grads = terms
    loss, grads = jax.tree.map(lambda x: x / parts, (loss, grads))
    # The optimizer would otherwise be compiled into the sums, in another way on each mesh.
    loss, metrics, grads = jax.lax.optimization_barrier((loss, metrics, grads))
    records = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), records)
    return (loss, (metrics, objective.update(context.state, records))), grads

  return mean_gradient


def _cut(x, parts):
  if x.shape[0] % parts:
    raise ValueError(f'fixed_parts={parts} must divide the batch {x.shape[0]}')
  return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])


def _one_by_one(function, step, *arrays):
  # Returns function(*rows) of each row of the arrays, in a loop whose length XLA does not know, and
  # with one more row, which is not used: it would compile another program for a loop of length 1.
  count = len(arrays[0])
  arrays = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), arrays)

  def rows(i):
    return jax.tree.map(lambda x: x[i], arrays)

  shapes = jax.eval_shape(lambda: function(*rows(0)))
  results = jax.tree.map(lambda x: jnp.zeros((count + 1, *x.shape), x.dtype), shapes)

  def write(i, results):
    return jax.tree.map(lambda a, x: a.at[i].set(x), results, function(*rows(i)))

  with jax.named_scope(repeated(count)):
    results = jax.lax.fori_loop(0, count + jnp.minimum(step, 0), write, results)
  return jax.tree.map(lambda x: x[:count], results)


def _total(x, mesh):
  # [parts of a device, ...] -> the sum over all parts, on every device.
  x = _tree_sum(x)
  if mesh.size > 1:
    x = _tree_sum(jax.lax.all_gather(x, mesh.axis_names))
  return x


def _tree_sum(x):
  while len(x) > 1:
    x = x[0::2] + x[1::2]
  return x[0]
