"""Law: each function of rows gives plain jit's numbers under every transform, on every mesh.

Functions: the public ones (tests/calls.py), with their slopes; the networks and objectives of
every kind of model (tests/fusions.py), with the gradients of their parameters. Planted, each
caught: `placed_as` or `on_auto_axes` returns its argument; `whole_weights` asks only whether
there is a mesh; `keys.draw_normal` draws all rows by the key of row 0;
`bilinear.reshaped` forgets along which axes an array varies.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.meshes import on_auto_axes
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context
from tests import calls, fusions
from tests.app import conftest as app
from tests.networks.test_options import NETWORKS
from tests.rows import slow

DEVICES, ROWS = 4, 8
WHOLE, SPLIT = PartitionSpec(), PartitionSpec('devices')


@functools.cache
def mesh_of(kind):
  devices = np.array(jax.devices()[:DEVICES])
  return Mesh(devices, ('devices',), axis_types=(kind,))


def parts(tree):
  return jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), tree)


def joined(tree):
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)


class Way(NamedTuple):
  """How a function of rows is run: a change of it, and the mesh that the rows are split over."""

  change: Callable = lambda function: function
  kind: AxisType | None = None
  in_context: bool = False  # of jax.set_mesh

  def run(self, function, rows, *others, trace=False):
    mesh = self.kind and mesh_of(self.kind)
    if mesh:
      rows = jax.device_put(rows, NamedSharding(mesh, SPLIT))
      others = jax.device_put(others, NamedSharding(mesh, WHOLE))
    with jax.set_mesh(mesh) if self.in_context else contextlib.nullcontext():
      program = jax.jit(self.change(function))
      return program.trace(rows, *others) if trace else program(rows, *others)


def by_parts(mapped):
  return lambda function: lambda rows: joined(mapped(function)(parts(rows)))


def shard_map(function, check_vma=True):
  mesh = mesh_of(AxisType.Auto)
  return jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=SPLIT, check_vma=check_vma)


WAYS = {
  'vmap': Way(by_parts(jax.vmap)),
  'scan': Way(by_parts(lambda function: functools.partial(jax.lax.map, function))),
  'remat': Way(jax.checkpoint),
  'pmap': Way(by_parts(jax.pmap)),
  'shard_map': Way(shard_map),
  'auto': Way(kind=AxisType.Auto, in_context=True),
  'explicit': Way(kind=AxisType.Explicit),
  'set_explicit': Way(kind=AxisType.Explicit, in_context=True),
}
# The loop of diffrax does not pass shard_map's check of types. The worst row of a call sets the
# steps of the solver: a part of a batch has the numbers of plain jit with its rows alone.
ODES = 'log_likelihood', 'exact_likelihood', 'probability_flow', 'adaptive_ode'
CUTTING = 'vmap', 'scan', 'pmap', 'shard_map'
WAY_OF_ODES = WAYS | {'shard_map': Way(functools.partial(shard_map, check_vma=False))}


def slope(function):
  """Returns the gradient in x [B, D] of the sum of a function's results; 0 without real ones."""

  def gradient(rows):
    def total(x):
      leaves = jax.tree.leaves(function(rows._replace(x=x)))
      real = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
      # Large results, whose sine would turn with their last digits, weigh little.
      return sum((jnp.sum(jax.nn.soft_sign(leaf)) for leaf in real), jnp.float32(0.0))

    # JAX cannot place a constant, the slope of levels, by an Explicit mesh without a context.
    return jax.grad(total)(rows.x) + 0.0 * rows.x

  return gradient


def rows_of_calls():
  return jax.tree.map(jnp.asarray, calls.batch_of(ROWS))


def check(name, function, tolerance):
  rows, ways = rows_of_calls(), ways_of(name)
  plain = jax.jit(function)
  expected = dict.fromkeys(ways, plain(rows))
  if name in ODES:
    alone = [jax.tree.map(lambda a, i=i: a[i], parts(rows)) for i in range(DEVICES)]
    results = jax.tree.map(lambda *a: np.concatenate(a), *map(plain, alone))
    expected |= dict.fromkeys(CUTTING, results)
  for way, run in ways.items():
    close(run.run(function, rows), expected[way], way, tolerance)


def close(result, expected, name, tolerance):
  for a, b in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    if np.issubdtype(b.dtype, np.floating):
      scale = np.max(np.abs(b), initial=1.0, where=np.isfinite(b))
      assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=name)
    else:
      assert_array_equal(a, b, err_msg=name)


def ways_of(name):
  return WAY_OF_ODES if name in ODES else WAYS


TYPED = 'shard_map', 'set_explicit'  # JAX compares types there, when it traces


@pytest.mark.parametrize('name', calls.ROWS)
def test_every_public_function_is_traced_where_types_name_devices(name):
  for way in TYPED:
    ways_of(name)[way].run(calls.ROWS[name], rows_of_calls(), trace=True)


# An equation, and a draw with keys of rows.
FEW = 'q_posterior', 'prior_sample'


@pytest.mark.parametrize('name', [*FEW, *(slow(name) for name in calls.ROWS if name not in FEW)])
def test_every_public_function_gives_the_same_numbers(name):
  check(name, calls.ROWS[name], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', calls.ROWS)
def test_every_public_function_has_the_same_slope(name):
  check(name, slope(calls.ROWS[name]), 1e-4)


@pytest.mark.parametrize('name', ODES)
def test_a_solver_says_what_shard_map_needs(name):
  with pytest.raises(ValueError, match='check_vma=False'):
    WAYS['shard_map'].run(calls.ROWS[name], rows_of_calls(), trace=True)


def test_a_solver_has_a_slope_under_shard_map():
  function = slope(calls.ROWS['probability_flow'])
  WAY_OF_ODES['shard_map'].run(function, rows_of_calls(), trace=True)


# Gradients of whole parameters: the mean over the parts of the rows.
def of_parts(mapped):
  def change(gradient):
    def mean(rows, *others):
      each = mapped(lambda part: gradient(part, *others))(parts(rows))
      return jax.tree.map(lambda a: jnp.mean(a, axis=0), each)

    return mean

  return change


def pmean(gradient):
  """The gradient of a mean over devices, as `jax.shard_map` of one's own step has it."""

  def mean(rows, params, *others):
    loss = lambda params: jax.lax.pmean(gradient.loss(params, rows, *others), 'devices')
    return jax.grad(loss)(params)

  def call(rows, *others):
    specs = SPLIT, *(WHOLE for _ in others)
    return jax.shard_map(mean, mesh=mesh_of(AxisType.Auto), in_specs=specs, out_specs=WHOLE)(
      rows, *others
    )

  return call


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
  """The gradient of loss(params, rows, *others), a mean over the rows, as (rows, params, …)."""

  loss: Callable

  def __call__(self, rows, params, *others):
    return jax.grad(self.loss)(params, rows, *others)


def by_python(gradient):
  """A loop over the parts, of plain `jit`."""

  def call(rows, *others):
    each = [jax.tree.map(lambda a, i=i: a[i], parts(rows)) for i in range(DEVICES)]
    grads = [jax.jit(gradient)(part, *others) for part in each]
    return jax.tree.map(lambda *a: sum(a) / DEVICES, *grads)

  return call


BY_PARTS = {
  'vmap': Way(of_parts(jax.vmap)),
  'scan': Way(of_parts(lambda function: functools.partial(jax.lax.map, function))),
  'remat': Way(
    lambda gradient: of_parts(lambda f: functools.partial(jax.lax.map, f))(
      Gradient(jax.checkpoint(gradient.loss))
    )
  ),
  'pmap': Way(of_parts(jax.pmap)),
  'shard_map': Way(pmean),
}
ON_MESHES = {name: WAYS[name] for name in ('auto', 'explicit', 'set_explicit')}
EVERY = BY_PARTS | ON_MESHES


TRACED = ('vae',)  # not only by those who run what is slow
HALF = 'dit', 'unet'  # the blocks of half precision on CPUs


@pytest.mark.parametrize(
  'name, dtype',
  [(name, jnp.float32) for name in NETWORKS] + [(name, jnp.bfloat16) for name in HALF],
)
@pytest.mark.slow
def test_every_network_has_the_same_gradient(name, dtype):
  gradient, rows, params = gradient_of(name, dtype)
  expected = jax.jit(gradient)(rows, params)
  tolerance = 1e-5 if dtype == jnp.float32 else 0.03
  for way in EVERY:
    close(EVERY[way].run(gradient, rows, params), expected, way, tolerance)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_network_has_a_gradient_where_types_name_devices(dtype):
  gradient, rows, params = gradient_of('dit', dtype)
  for way in TYPED if dtype == jnp.float32 else ['shard_map']:
    EVERY[way].run(gradient, rows, params, trace=True)


@pytest.mark.parametrize('name', ['dit', slow('unet'), slow('mlp')])
def test_a_hidden_layer_is_split_as_its_rows(name):
  """The output, what block 0 computes, and the gradient of both; numbers if all networks are."""
  gradient, rows, params = gradient_of(name, jnp.float32, at=0)
  expected = jax.jit(gradient)(rows, params) if name == 'mlp' else None
  for way in TYPED:
    found = EVERY[way].run(gradient, rows, params, trace=expected is None)
    if expected is not None:
      close(found, expected, way, 1e-5)


def gradient_of(name, dtype, **more):
  """Returns (the gradient of a network, rows, parameters)."""
  network = NETWORKS[name]()
  if dtype == jnp.bfloat16:
    network = network.clone(dtype=dtype)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((ROWS, 4, 4, 3), np.float32)
  rows = {'x': x, 'noise': rng.uniform(0.1, 0.9, ROWS).astype(np.float32)}
  apply = network_fn(network)
  if name in ('autoencoder', 'hierarchical'):  # They take no noise.
    run = on_auto_axes(lambda x, params: network.apply({'params': params}, x))
    apply = lambda params, x, noise, cond: run(x, params)
  rngs = {'params': jax.random.key(0), 'draw': jax.random.key(1)}
  noise = () if name in ('autoencoder', 'hierarchical') else (rows['noise'][:1],)
  shapes = jax.eval_shape(network.init, rngs, x[:1], *noise)['params']
  params = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)

  def loss(params, rows):
    leaves = jax.tree.leaves(apply(params, rows['x'], rows['noise'], {}, **more))
    return sum(jnp.mean(jnp.sin(leaf)) for leaf in leaves)

  return Gradient(loss), rows, params


def own_networks():
  """Returns {name: (a network function as a user writes it, its parameters)}, of x [B, 2]."""
  graph, of_nnx = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
  made = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
  of_eqx, static = eqx.partition(made, eqx.is_array)
  table = jax.random.normal(jax.random.key(1), (16, 2))

  def by_nnx(params, x, noise, cond, *, key=None):
    return nnx.merge(graph, params)(jnp.column_stack([x, noise]))

  def by_equinox(params, x, noise, cond, *, key=None):
    return jax.vmap(eqx.combine(params, static))(jnp.column_stack([x, noise]))

  def by_index(params, x, noise, cond, *, key=None):
    return x * params[(16 * noise).astype(int)]

  return {'nnx': (by_nnx, of_nnx), 'equinox': (by_equinox, of_eqx), 'index': (by_index, table)}


@pytest.mark.parametrize('name', [slow('nnx'), slow('equinox'), 'index'])
def test_a_network_of_the_user_has_the_same_numbers(name):
  """It says nothing of shardings, which Explicit axes ask for; draws and gradients are tried."""
  function, params = own_networks()[name]
  network = dj.Network(function, dj.time_input(), parametrization='v')
  schedule = dj.CosineSchedule()
  levels = dj.level_grid(schedule, 3)
  loss = objectives.denoising(network, schedule, times=dj.uniform_times)

  def draw(rows, params):
    return dj.sample(jax.random.key(2), network.denoiser(params), dj.ddim(), levels, rows)

  def of_batch(params, x, key):
    return loss({'network': params}, Context(), key, {'x': x})[0]

  x = np.random.default_rng(0).standard_normal((ROWS, 2)).astype(np.float32)
  expected = jax.jit(draw)(x, params), jax.jit(jax.grad(of_batch))(params, x, jax.random.key(3))
  for way, run in ON_MESHES.items():
    found = run.run(draw, x, params), run.run(Gradient(of_batch), x, params, jax.random.key(3))
    close(found, expected, way, 1e-5)


def test_a_network_that_names_its_shardings_keeps_its_axes():
  seen, mesh = [], mesh_of(AxisType.Explicit)

  def typed(params, x, noise, cond, *, key=None):
    seen.append(jax.typeof(x).sharding.mesh.axis_types)
    return jnp.dot(x, params, out_sharding=SPLIT)

  network = dj.Network(typed, dj.time_input(), parametrization='v')
  with jax.set_mesh(mesh):
    x, params = jax.device_put(jnp.ones((ROWS, 2)), SPLIT), jax.device_put(jnp.ones((2, 2)), WHOLE)
    assert_array_equal(jax.jit(network.output)(params, x, dj.CosineSchedule()(0.5)), 2.0)
  assert seen == [(AxisType.Explicit,)]


def test_a_network_that_hides_an_array_of_the_mesh_is_told_so():
  mesh = mesh_of(AxisType.Explicit)
  with jax.set_mesh(mesh):
    x, hidden = jax.device_put(jnp.ones((ROWS, 2)), SPLIT), jax.device_put(jnp.ones((2, 2)), WHOLE)
    apply = lambda params, x, noise, cond, *, key=None: jnp.dot(x.T, x) @ hidden
    network = dj.Network(apply, dj.time_input(), parametrization='v')
    with pytest.raises(Exception) as error:
      jax.jit(network.output)((), x, dj.CosineSchedule()(0.5))
  assert 'meshes.on_auto_axes' in ''.join(getattr(error.value, '__notes__', []))


def model_of(name, folder, change=lambda config: config):
  """Returns the untrained model of a row of `fusions.KINDS`, whose config is changed."""
  config, _, changes = fusions.KINDS[name]
  for field, run in changes.items():
    if isinstance(run, fusions.Run):
      changes = changes | {field: app.untrained(app.trial(*run), folder / field, 0.1)}
  return make_model(change(app.trial(config, **changes)), RunFolder.at(folder / 'run'))


def objective_of(name, folder):
  """Returns (objective, parameters, context, a batch) of a row of `fusions.KINDS`."""
  model = model_of(name, folder)
  params = app.normal_params(model, deviation=0.1)
  frozen = jax.tree.map(lambda a: np.full(a.shape, 0.1, a.dtype), model.teacher.shapes())
  rng, facts = np.random.default_rng(0), model.facts
  batch = {'x': rng.choice(np.float32([-1.0, 1.0]), (ROWS, *model.state_shape))}
  if facts.num_classes:
    batch['label'] = rng.integers(0, facts.num_classes, ROWS).astype(np.int32)
  if facts.context is not None:
    batch['context'] = rng.standard_normal((ROWS, *facts.context.shape), np.float32)
  texts = conditions.Texts(model).shapes(ROWS)
  batch |= jax.tree.map(lambda a: np.ones(a.shape, a.dtype), texts)
  objective = model.objective()
  return objective, params, Context(0, params, frozen, objective.init()), batch


@pytest.mark.parametrize('name', [name if name in TRACED else slow(name) for name in fusions.KINDS])
def test_every_objective_is_traced_where_types_name_devices(name, tmp_path):
  objective, params, context, batch = objective_of(name, tmp_path)
  key = jax.random.key(3)
  step = Gradient(lambda params, batch, context, key: objective(params, context, key, batch)[0])
  WAYS['set_explicit'].run(step, batch, params, context, key, trace=True)
  inputs, keys = jax.eval_shape(objective.draw, key, batch, context)
  of_rows = Gradient(
    lambda params, inputs, context, keys: objective.loss(params, context, inputs, keys)[0]
  )
  jax.jit(pmean(of_rows)).trace(inputs, params, context, keys)


@pytest.mark.slow
@pytest.mark.parametrize('name', fusions.KINDS)
def test_every_objective_has_the_same_gradient(name, tmp_path):
  objective, params, context, batch = objective_of(name, tmp_path)
  key = jax.random.key(3)
  step = Gradient(lambda params, batch, context, key: objective(params, context, key, batch)[0])
  expected = jax.jit(step)(batch, params, context, key)
  for way, run in ON_MESHES.items():
    close(run.run(step, batch, params, context, key), expected, way, 1e-4)
  # The loss of some rows, with random numbers that were drawn for the whole batch.
  inputs, keys = jax.jit(objective.draw)(key, batch, context)
  of_rows = Gradient(
    lambda params, inputs, context, keys: objective.loss(params, context, inputs, keys)[0]
  )
  expected = by_python(of_rows)(inputs, params, context, keys)
  for way, run in BY_PARTS.items():
    close(run.run(of_rows, inputs, params, context, keys), expected, way, 1e-4)
