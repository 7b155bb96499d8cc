"""Layers, a U-Net, its gradient, a sampler and a step on the default device.

The CPU computes the expected values with the same functions in float64. Errors
are relative to the largest value. All functions of a type are one program.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.networks.cpu.convolution import conv2d
from diffusion_jax.networks.layers import GroupNorm
from diffusion_jax.networks.unet import UNet
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.sharding import make_mesh

# For float32 at the highest precision, and bfloat16 with 8 bits.
TOLERANCE = {'float32': 2e-5, 'bfloat16': 0.05}
FLOAT64 = jnp.dtype('float64')


def with_gradients(function):
  """Returns the function with the gradients of the sum of its sines."""

  def both(dtype, *arguments):
    apply = functools.partial(function, dtype)
    loss = lambda *a: jnp.sum(jnp.sin(apply(*a)))
    places = tuple(range(len(arguments)))
    return apply(*arguments), jax.grad(loss, argnums=places)(*arguments)

  return both


def normal(*shape, scale=1.0):
  return scale * np.random.default_rng(sum(shape)).standard_normal(shape)


# Each function takes the type of the network, and arrays: of the network's type
# for layers, of float32 for what has a network in it, or all in float64.


def convolution(stride, size):
  pad = ((size - 1) // 2, size // 2)
  conv = functools.partial(conv2d, stride=stride, padding=(pad, pad))
  arguments = normal(2, 8, 8, 16), normal(size, size, 16, 8, scale=0.1)
  return with_gradients(lambda dtype, *x: conv(*x)), arguments, 2.0


def attention(implementation):
  def attend(dtype, *qkv):
    own = 'xla' if dtype == FLOAT64 else implementation
    return jax.nn.dot_product_attention(*qkv, implementation=own)

  arguments = tuple(normal(2, 64, 2, 32) + i for i in range(3))
  return with_gradients(attend), arguments, 2.0


def group_norm():
  # A sum of squares with few digits would lose a mean far from 0.
  def apply(dtype, x, scale, bias):
    params = {'scale': scale, 'bias': bias}
    return GroupNorm(4, dtype=dtype).apply({'params': params}, x)

  arguments = 3.0 + normal(2, 8, 8, 16), 1.0 + normal(16, scale=0.1), normal(16)
  return with_gradients(apply), arguments, 1.0


def biases():
  # XLA moves sums with a bias into products, and once lost the factor.
  def apply(dtype, x, w, b):
    rows, columns = b[:, None], b[None]
    return 3.0 * (x @ w + columns), x @ w + rows, 3.0 * (x @ w) + columns

  return apply, (normal(64, 64), normal(64, 64), normal(64)), 1.0


LAYERS = {
  'convolution': convolution(1, 3),
  'convolution of stride 2': convolution(2, 3),
  'convolution of size 1': convolution(1, 1),
  'attention by XLA': attention('xla'),
  'attention by cuDNN': attention('cudnn'),
  'group norm': group_norm(),
  'biases': biases(),
}


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


def make_params():
  """Returns random parameters whose output is not 0."""
  x = jnp.zeros((2, 8, 8, 3))
  shapes = jax.eval_shape(small('float32').init, jax.random.key(0), x, x[:, 0, 0, 0])
  leaves, tree = jax.tree.flatten(shapes['params'])
  rng = np.random.default_rng(0)
  return tree.unflatten([0.15 * rng.standard_normal(x.shape) for x in leaves])


def network_of(dtype):
  def network_fn(params, x, noise, cond, *, key=None):
    return small(dtype).apply({'params': params}, x, noise)

  return network_fn


def u_net(dtype, params, x, noise):
  """Returns the output, and parts of the gradient."""

  def loss(params):
    out = network_of(dtype)(params, x, noise, {})
    return jnp.mean(jnp.tanh(out) ** 2), out

  gradient: Any
  (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  return out, optax.tree.norm(gradient), gradient['conv_out']['kernel']


def sampler(dtype, params, x):
  """Returns samples by four steps of DDIM from the same noise."""
  denoise = dj.Network(network_of(dtype), dj.logsnr_input).denoiser(params)
  levels = dj.level_grid(dj.CosineSchedule(), 4)
  key = jax.random.key(0)
  return dj.sample(key, dj.clip_denoised(denoise), dj.ddim(), levels, x)


def training_step(dtype, params, x0, eps, t):
  """Returns the loss, and the changes by a step of SGD."""
  optimizer = optax.sgd(1.0)
  level = dj.CosineSchedule()(t)

  def loss(params):
    xt = dj.q_sample(x0, eps, level)
    found = network_of(dtype)(params, xt, 1000.0 * t, {})
    return jnp.mean(dj.simple_loss(eps, found))

  value, gradient = jax.value_and_grad(loss)(params)
  updates: Any
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  middle = updates['middle_0_block']['conv_1']['kernel']
  return value, optax.tree.norm(updates), middle


PARAMS = make_params()
NETWORKS = {
  'U-Net': (u_net, (PARAMS, normal(2, 8, 8, 3), np.array([3.0, 400.0])), 3.0),
  'sampler': (sampler, (PARAMS, normal(2, 8, 8, 3)), 4.0),
  'training step': (
    training_step,
    (
      PARAMS,
      normal(4, 8, 8, 3),
      normal(4, 3, 8, 8).transpose(0, 2, 3, 1),
      np.array([0.1, 0.4, 0.6, 0.9]),
    ),
    3.0,
  ),
}


def computed(cases, dtype, of_arrays, **jit):
  """Returns the results of all cases by one program, in float64."""
  cast = lambda x: jnp.asarray(x, of_arrays)
  arguments = {name: case[1] for name, case in cases.items()}

  def every(arguments):
    return {name: f(dtype, *arguments[name]) for name, (f, *_) in cases.items()}

  with jax.default_matmul_precision('highest'):
    found = jax.jit(every, **jit)(jax.tree.map(cast, arguments))
  return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def usable(cases, dtype):
  """Returns the cases that the device has."""
  cudnn = jax.default_backend() == 'gpu' and dtype == 'bfloat16'
  return {n: case for n, case in cases.items() if cudnn or 'cuDNN' not in n}


@functools.cache
def on_device(of_layers, dtype):
  cases = usable(LAYERS if of_layers else NETWORKS, dtype)
  options = compiling.options(make_mesh(devices=jax.devices()[:1]), 'tuned')
  arrays = dtype if of_layers else 'float32'
  return computed(cases, jnp.dtype(dtype), arrays, compiler_options=options)


@functools.cache
def expected(of_layers):
  cases = LAYERS if of_layers else NETWORKS
  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    return computed(cases, FLOAT64, FLOAT64)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('name', [*LAYERS, *NETWORKS])
def test_numbers(name, dtype):
  of_layers, cases = name in LAYERS, LAYERS | NETWORKS
  if name not in usable(cases, dtype):
    pytest.skip('cuDNN has attention in bfloat16 on NVIDIA GPUs')
  tolerance = cases[name][2] * TOLERANCE[dtype]
  found = jax.tree.leaves(on_device(of_layers, dtype)[name])
  exact = jax.tree.leaves(expected(of_layers)[name])
  for a, b in zip(found, exact, strict=True):
    assert np.isfinite(a).all() and a.shape == b.shape
    scale = np.abs(b).max()
    assert scale > 0.0
    assert_allclose(a, b, rtol=0, atol=tolerance * scale)
