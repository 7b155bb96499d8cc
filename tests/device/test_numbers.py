"""Layers, a U-Net, its gradient, a sampler and a step on the default device.

The CPU computes the expected values with the same functions in float64. Errors
are relative to the largest value.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion_jax as dj
from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.networks.group_norm import GroupNorm
from diffusion_jax.networks.unet import UNet

# For float32 at the highest precision, and bfloat16 with 8 bits.
TOLERANCE = {'float32': 2e-5, 'bfloat16': 0.05}
TYPES = pytest.mark.parametrize('dtype', TOLERANCE)


def on_device(function, arguments, dtype) -> Any:
  """Returns results of the default device in `dtype`, at highest precision."""
  cast = lambda x: jnp.asarray(x, dtype if np.asarray(x).ndim else None)
  with jax.default_matmul_precision('highest'):
    found = jax.jit(function)(*jax.tree.map(cast, arguments))
  return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def in_float64(function, arguments) -> Any:
  """Returns the results of the CPU in float64."""
  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arguments)
    with jax.default_matmul_precision('highest'):
      found = jax.jit(function)(*arguments)
    return jax.tree.map(np.asarray, found)


def close(found, expected, tolerance):
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert np.isfinite(a).all() and a.shape == b.shape
    scale = np.abs(b).max()
    assert scale > 0.0
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def check(function, arguments, dtype, factor=1.0):
  found = on_device(function, arguments, dtype)
  expected = in_float64(function, arguments)
  close(found, expected, factor * TOLERANCE[dtype])


def with_gradients(function):
  """Returns the function with the gradients of the sum of its sines."""

  def both(*arguments):
    loss = lambda *a: jnp.sum(jnp.sin(function(*a)))
    places = tuple(range(len(arguments)))
    return function(*arguments), jax.grad(loss, argnums=places)(*arguments)

  return both


def normal(*shape, scale=1.0):
  return scale * np.random.default_rng(sum(shape)).standard_normal(shape)


@TYPES
@pytest.mark.parametrize('stride, size', [(1, 3), (2, 3), (1, 1)])
def test_convolution_and_its_gradients(stride, size, dtype):
  x, kernel = normal(2, 8, 8, 16), normal(size, size, 16, 8, scale=0.1)
  pad = ((size - 1) // 2, size // 2)
  conv = functools.partial(conv2d, stride=stride, padding=(pad, pad))
  check(with_gradients(conv), (x, kernel), dtype, factor=2.0)


@TYPES
@pytest.mark.parametrize('implementation', ['xla', 'cudnn'])
def test_attention_and_its_gradients(implementation, dtype):
  if implementation == 'cudnn':
    if jax.default_backend() != 'gpu':
      pytest.skip('cuDNN is a library of NVIDIA GPUs')
    if dtype == 'float32':
      pytest.skip("cuDNN's attention has no float32")
  arguments = tuple(normal(2, 64, 2, 32) + i for i in range(3))
  attend: Any = jax.nn.dot_product_attention
  found = on_device(
    with_gradients(functools.partial(attend, implementation=implementation)),
    arguments,
    dtype,
  )
  expected = in_float64(with_gradients(attend), arguments)
  close(found, expected, 2.0 * TOLERANCE[dtype])


@TYPES
def test_group_norm_and_its_gradients(dtype):
  norm = GroupNorm(4, dtype=jnp.dtype(dtype))
  scale, bias = 1.0 + normal(16, scale=0.1), normal(16)

  def apply(x, scale, bias):
    params = {'scale': scale, 'bias': bias}
    of_type = norm if x.dtype != jnp.float64 else GroupNorm(4, dtype=x.dtype)
    return of_type.apply({'params': params}, x)

  # A sum of squares with few digits would lose a mean far from 0.
  check(with_gradients(apply), (3.0 + normal(2, 8, 8, 16), scale, bias), dtype)


def small(dtype) -> Any:
  return UNet(
    channels=16,
    multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(4,),
    num_groups=4,
    dropout=0.0,
    dtype=dtype,
  )


@pytest.fixture(scope='module')
def params():
  """Returns random parameters whose output is not 0."""
  x = jnp.zeros((2, 8, 8, 3))
  shapes = jax.eval_shape(
    small('float32').init, jax.random.key(0), x, x[:, 0, 0, 0]
  )
  leaves, tree = jax.tree.flatten(shapes['params'])
  rng = np.random.default_rng(0)
  return tree.unflatten([0.15 * rng.standard_normal(x.shape) for x in leaves])


TYPE = {'network': 'float32'}


def network_fn(params, x, noise, cond, *, key=None):
  # In float64 where the reference is computed.
  dtype = 'float64' if x.dtype == jnp.float64 else TYPE['network']
  return small(jnp.dtype(dtype)).apply({'params': params}, x, noise)


@pytest.fixture(params=TOLERANCE)
def dtype(request, monkeypatch):
  """Returns the network's dtype; everything else is float32."""
  monkeypatch.setitem(TYPE, 'network', request.param)
  return request.param


def test_the_u_net_and_its_gradient(params, dtype):
  x, noise = normal(2, 8, 8, 3), np.array([3.0, 400.0])

  def both(params, x):
    def loss(params):
      out = network_fn(params, x, jnp.asarray(noise, x.dtype), {})
      return jnp.mean(jnp.tanh(out) ** 2), out

    gradient: Any
    (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return out, optax.tree.norm(gradient), gradient['conv_out']['kernel']

  found = on_device(both, (params, x), 'float32')
  expected = in_float64(both, (params, x))
  close(found, expected, 3.0 * TOLERANCE[dtype])


def test_a_sampler(params, dtype):
  """Four steps of DDIM from the same noise."""
  schedule = dj.CosineSchedule()
  levels = dj.level_grid(schedule, 4)

  def sample(params, x):
    denoise = dj.clip_denoised(
      dj.make_denoiser(
        network_fn,
        params,
        parametrization='eps',
        noise_input=dj.logsnr_input,
      )
    )
    return dj.sample(jax.random.key(0), denoise, dj.ddim(), levels, x)

  arguments = params, normal(2, 8, 8, 3)
  found = on_device(sample, arguments, 'float32')
  expected = in_float64(sample, arguments)
  close(found, expected, 4.0 * TOLERANCE[dtype])


def test_a_training_step(params, dtype):
  """A step of SGD changes the parameters by the gradient."""
  x0, eps = normal(4, 8, 8, 3), normal(4, 3, 8, 8).transpose(0, 2, 3, 1)
  t = np.array([0.1, 0.4, 0.6, 0.9])
  optimizer = optax.sgd(1.0)

  def change(params, x0, eps, t):
    level = dj.CosineSchedule()(t)

    def loss(params):
      xt = dj.q_sample(x0, eps, level)
      found = network_fn(params, xt, 1000.0 * t, {})
      return jnp.mean(dj.simple_loss(eps, found))

    value, gradient = jax.value_and_grad(loss)(params)
    updates: Any
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    middle = updates['middle_0_block']['conv_1']['kernel']
    return value, optax.tree.norm(updates), middle

  arguments = params, x0, eps, t
  found = on_device(change, arguments, 'float32')
  expected = in_float64(change, arguments)
  close(found, expected, 3.0 * TOLERANCE[dtype])
