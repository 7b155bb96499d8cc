"""DiT: the whole network in NumPy, its dropout, its loop and its vectors."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks import tokens, transformer
from diffusion_jax.networks.inputs import ContextEncoder, Inputs
from diffusion_jax.networks.tokens import grid_positions
from diffusion_jax.networks.transformer import DiT, block_params
from tests.networks import test_transformer_block as literal
from tests.networks.literal import dense, random_params, swish
from tests.networks.meshes import H100, on
from tests.rows import slow
from tests.transcribed import transcribes

TINY: Any = {'channels': 8, 'num_blocks': 2, 'num_heads': 2, 'out_channels': 1}
JIT: Any = {'positions': 'both', 'class_tokens': 2, **literal.JIT}
LABEL = {'label': np.array([0, 2])}
LABELLED: Any = {'inputs': Inputs(num_classes=3)}
NOISE = np.array([0.3, 0.9], np.float32)
small_params = functools.partial(random_params, scale=0.3)


def shapes(network, x=(1, 4, 6, 1), cond=None):
  x, noise = np.zeros(x, np.float32), np.zeros(x[0], np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), x, noise, cond)


def images(seed=0, channels=1):
  shape = (2, 4, 6, channels)
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def whole(x, noise, label, p, network, kept=None):
  """Peebles & Xie 2023, figure 3, as Li & He 2025 change it.

  kept [B, K]: the patches that enter the blocks between the ends (Krause et al. 2025).
  """
  angles = np.exp(-np.log(10000) * np.arange(128) / 128)
  size, (b, height, width, _) = network.patch_size, x.shape
  if noise.ndim == 2:  # of rows of pixels; the rows of a patch are equal
    noise = np.repeat(noise[:, ::size], width // size, axis=1)
  angles = noise[..., None] * angles
  h = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
  h = swish(dense(p['noise_dense_1'], h))
  label = p['label_embedding']['table']['embedding'][label]
  c = dense(p['noise_dense_2'], h) + (label if noise.ndim == 1 else label[:, None])
  patches = [
    x[:, i : i + size, j : j + size].reshape(b, -1)
    for i in range(0, height, size)
    for j in range(0, width, size)
  ]
  h = np.stack(patches, axis=1) @ p['patch_bottleneck']['kernel']
  h = dense(p['patch_embedding'], h)
  grid = height // size, width // size
  h = h + grid_positions(grid, network.channels)
  count = grid[0] * grid[1]
  if network.registers:
    h = np.concatenate([np.tile(p['registers'], (b, 1, 1)), h], axis=1)
  values = None
  for i in range(network.num_blocks):
    if i == network.class_tokens_at:
      first = label[:, None] + p['class_positions'][None]
      h = np.concatenate([first, h], axis=1)
    weights, extra = block_params(p, i), h.shape[1] - count
    c = before(c, count, extra)
    if network.value_residual and i == 0:
      values = literal.values(h, c, weights)
    of_first = None if i == 0 else values
    between = network.routing_ends <= i < network.num_blocks - network.routing_ends
    if kept is None or not between:
      h = literal.block(h, c, weights, rotary=True, swiglu=True, first=of_first)
      continue
    # The tokens that are computed: those before the patches, and the kept patches.
    computed = np.concatenate([np.tile(np.arange(extra), (b, 1)), extra + kept], axis=1)
    rows = np.arange(b)[:, None]
    if of_first is not None:
      of_first = of_first[rows, computed]
    h[rows, computed] = literal.block(
      h[rows, computed],
      c if c.ndim == 2 else c[rows, computed],
      weights,
      rotary=True,
      swiglu=True,
      first=of_first,
      kept=kept,
    )
  h, c = h[:, -count:], before(c, count, 0)
  shift, scale = literal.modulation(c, p, '', 2, 'modulation_out')
  h = literal.rms_norm(h, p['norm_out']) * (1 + scale) + shift
  h = dense(p['patch_out'], h)
  out = np.zeros((b, height, width, network.out_channels))
  for token in range(h.shape[1]):
    i, j = (size * place for place in divmod(token, grid[1]))
    patch = h[:, token].reshape(b, size, size, -1)
    out[:, i : i + size, j : j + size] = patch
  return out


def before(c, count, extra):
  """Returns the embedding of each token; tokens before the patches have the first patch's."""
  if c.ndim == 2:
    return c
  patches = c[:, -count:]
  return np.concatenate([np.repeat(patches[:, :1], extra, axis=1), patches], axis=1)


def agrees(network, params, found, kept=None, noise=NOISE):
  """Asserts that an output is `whole`'s for the images, noise and labels of this file."""
  wide = jax.tree.map(np.float64, params)
  label = np.array([0, 2])
  expected = whole(np.float64(images()), np.float64(noise), label, wide, network, kept)
  assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()


ROWS = np.repeat(np.array([[0.3, 0.9], [0.7, 0.0]], np.float32), 2, axis=1)
OPTIONS = {
  'registers': {'class_tokens_at': 1, 'registers': 3},
  'values': {'value_residual': True, 'registers': 1, 'num_blocks': 3},
}


@transcribes('DiT (Peebles & Xie 2023); JiT (Li & He 2025)', "DiT's network")
@transcribes(
  'ResFormer (Zhou et al. 2025)',
  'V′_n = λ_1 V_1 + λ_2 V_n',
  '`networks.transformer_block.Block`',
)
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_the_whole_network_of_jit(options):
  """With a level for an example, and for each token.

  tests/interop/test_diffusers.py compares Peebles & Xie's network.
  """
  network = DiT(**TINY | LABELLED | JIT | {'bottleneck': 3} | options)
  params = small_params(network, images(), NOISE, LABEL)
  for noise in NOISE, ROWS:
    found = applied(network)({'params': params}, images(), noise, LABEL)
    agrees(network, params, found, noise=noise)


WORDS: Any = {'context': (5, 3), 'context_encoder': ContextEncoder('words')}
EARLIER = {
  'tokens': ({}, {}),
  'blocks': ({'causal': 2}, {}),
  'registers': ({'registers': 2, 'value_residual': True, 'num_blocks': 3}, {}),
  'words': ({'inputs': Inputs(**WORDS)}, {}),
  'cross': ({'inputs': Inputs(**WORDS), 'text_attention': 'cross'}, {}),
}


# The words of a cross attention are given to all tokens alike.
SEEN_EARLIER = [
  slow(*row, id=name) if name == 'cross' else pytest.param(*row, id=name)
  for name, row in EARLIER.items()
]


@pytest.mark.parametrize('options, cond', SEEN_EARLIER)
def test_a_causal_token_sees_earlier_blocks_alone(options, cond):
  """The beginning of a sequence has the same output, whatever follows."""
  network = DiT(**TINY | {'patch_size': 1, 'positions': 'rotary', 'causal': 1} | options)
  x = np.random.default_rng(0).standard_normal((2, 6, 1), np.float32)
  noise = np.random.default_rng(1).uniform(0.0, 1.0, (2, 6)).astype(np.float32)
  if network.inputs.context:
    cond = {'context': np.random.default_rng(2).standard_normal((2, 5, 3), np.float32)}
  params = small_params(network, x, noise, cond)
  run = applied(network)
  found = run({'params': params}, x, noise, cond)
  alone = run({'params': params}, x[:, :4], noise[:, :4], cond)
  assert_allclose(found[:, :4], alone, rtol=1e-5, atol=1e-5)
  later = np.arange(6)[None] > 3
  other = run({'params': params}, np.where(later[..., None], 3.0, x), noise + later, cond)
  assert_array_equal(found[:, :4], other[:, :4])
  assert np.abs(found[:, 4:] - other[:, 4:]).max() > 1e-3
  seen = run({'params': params}, x + (np.arange(6)[None, :, None] == 0), noise, cond)
  assert np.abs(seen - found).reshape(2, 6, -1).max(axis=-1).min() > 1e-4
  last = np.arange(6)[None, :, None] == network.causal - 1  # of the first block
  within = run({'params': params}, x + last, noise, cond)
  assert np.abs(within - found)[:, 0].max() > 1e-4


def test_routed_tokens_keep_their_levels_and_places(key):
  """Beginnings are of different lengths, so the route is of the whole sequence."""
  options = {'routing': 0.5, 'routing_ends': 1, 'num_blocks': 3, 'causal': 1}
  network = DiT(**TINY | {'patch_size': 1, 'positions': 'rotary'} | options)
  x = np.random.default_rng(0).standard_normal((2, 6, 1), np.float32)
  noise = np.random.default_rng(1).uniform(0.0, 1.0, (2, 6)).astype(np.float32)
  params = small_params(network, x, noise)
  run = jax.jit(
    lambda x, noise: network.apply({'params': params}, x, noise, train=True, rngs={'dropout': key})
  )
  found, later = run(x, noise), np.arange(6)[None] > 3
  other = run(np.where(later[..., None], 3.0, x), noise + later)
  assert_array_equal(found[:, :4], other[:, :4])
  assert_allclose(run(x, noise[:, 0]), run(x, np.repeat(noise[:, :1], 6, 1)), rtol=1e-5, atol=1e-5)


@transcribes(
  'TREAD (Krause et al. 2025)',
  'a random route of each image',
  '`networks.tokens.draw_route`',
)
def test_routed_patches_pass_by_the_blocks_between_the_ends(key):
  """In training; else all patches enter all blocks."""
  network = DiT(
    **TINY | LABELLED | JIT | {'bottleneck': 3, 'num_blocks': 4, 'positions': 'both'},
    **{'registers': 2, 'value_residual': True, 'routing': 0.6, 'routing_ends': 1},
  )
  variables = {'params': small_params(network, images(), NOISE, LABEL)}
  routes = []

  @functools.wraps(tokens.draw_route)
  def draw(*inputs):
    routes.append(tokens.draw_route(*inputs))
    return routes[-1]

  @jax.jit
  def trained(variables):
    with pytest.MonkeyPatch.context() as patched:
      patched.setattr(transformer, 'draw_route', draw)
      rngs = {'dropout': key}
      out = network.apply(variables, images(), NOISE, LABEL, train=True, rngs=rngs)
    return out, routes[-1]

  found, route = trained(variables)
  assert route.kept.shape == (2, 2) and route.aside.shape == (2, 4)  # of 6 patches
  agrees(network, variables['params'], found, np.asarray(route.kept))
  agrees(network, variables['params'], applied(network)(variables, images(), NOISE, LABEL))


def test_parameters_begin_as_published(key):
  """The output and the modulations begin at 0, and each value as the mean of two.

  Registers, labels and both layers of the noise have the deviation 0.02.
  """
  inputs = Inputs(num_classes=100)
  network = DiT(64, 3, 2, registers=50, value_residual=True, inputs=inputs, **JIT)

  @jax.jit
  def parts(key):  # without what other parameters need
    p = network.init(key, images(channels=3), NOISE, LABEL)['params']
    first, *others = blocks = [block_params(p, i) for i in range(3)]
    assert 'value_weights' not in first
    zero = p['patch_out'], [block['modulation'] for block in blocks]
    small = [p['registers'], p['label_embedding']['table']['embedding']]
    small += [p[f'noise_dense_{i}']['kernel'] for i in (1, 2)]
    return zero, [block['value_weights'] for block in others], small, first['qkv']['kernel']

  zero, weights, small, qkv = jax.device_get(parts(key))
  jax.tree.map(lambda a: assert_array_equal(a, 0.0), zero)
  assert_array_equal(weights, np.full((2, 2), 0.5))
  for a in small:
    # the relative error of a deviation of n numbers is 1 / sqrt(2 n)
    assert abs(np.std(a) / 0.02 - 1) < 4.5 / np.sqrt(2 * a.size)
  assert np.std(qkv) > 0.05  # the others are not 0


def test_what_is_set_aside_is_drawn_evenly(key):
  """Each patch as often, and examples on their own."""
  route = tokens.draw_route(key, 2000, 8, 0.75)
  assert route.aside.shape == (2000, 6)
  both = np.sort(np.concatenate(route, axis=1), axis=1)
  assert_array_equal(both, np.tile(np.arange(8), (2000, 1)))
  counts = np.bincount(np.ravel(route.kept), minlength=8)
  # Each is binomial, of mean 500 and deviation sqrt(2000 / 4 * 3 / 4).
  assert np.abs(counts - 500).max() < 4.5 * 19.4
  assert len(np.unique(np.sort(route.kept, axis=1), axis=0)) == 28  # all pairs of 8


@pytest.mark.parametrize('share, aside', [(0.01, 1), (0.3, 2), (0.5, 4), (0.99, 7)])
def test_one_patch_at_least_stays_and_one_does_not(key, share, aside):
  route = tokens.draw_route(key, 1, 8, share)
  assert route.aside.shape == (1, aside) and route.kept.shape == (1, 8 - aside)


def test_without_routing_or_dropout_there_are_the_same_parameters():
  """A run may continue without routing, and a test loss sets dropout to 0."""
  routed, middle = {'num_blocks': 4, 'routing_ends': 1}, {'dropout_blocks': 'middle'}
  for options, field, value in (routed, 'routing', 0.5), (middle, 'dropout', 0.1):
    network = DiT(**TINY | options)
    changed = network.clone(**{field: value})
    assert jax.tree.structure(shapes(changed)) == jax.tree.structure(shapes(network))


def test_without_positions_permuted_patches_give_permuted_outputs():
  permuted = np.array([4, 2, 0, 5, 1, 3])

  def permute(x):
    x = np.asarray(x).reshape(2, 2, 2, 3, 2, 1).swapaxes(2, 3)
    x = x.reshape(2, 6, 2, 2, 1)[:, permuted].reshape(2, 2, 3, 2, 2, 1)
    return x.swapaxes(2, 3).reshape(2, 4, 6, 1)

  x, moved = images(), {}
  params = small_params(DiT(**TINY), x, NOISE)
  for positions in ('none', 'both'):
    network = DiT(**TINY, positions=positions)
    first, second = (
      np.asarray(applied(network)({'params': params}, a, NOISE)) for a in (x, permute(x))
    )
    moved[positions] = np.abs(second - permute(first)).max()
  assert moved['none'] < 1e-5
  assert moved['both'] > 1e-2


@functools.cache
def applied(network):
  return jax.jit(network.apply)


def test_dropout_is_in_the_middle_half_alone(key):
  """Nothing is random in four blocks if the gates of the middle are 0."""
  options = TINY | {'num_blocks': 4, 'dropout': 0.5, 'dropout_blocks': 'middle'}
  network = DiT(**options)
  x = images()
  params = small_params(network, x, NOISE)
  assert {n for n in params if 'blocks' in n} == {'blocks_0', 'blocks_1', 'blocks_3'}

  @jax.jit
  def apply(params, key):
    rngs = {'dropout': key}
    return network.apply({'params': params}, x, NOISE, train=True, rngs=rngs)

  def change(closed):
    changed: Any = {}
    for name in ('blocks_0', 'blocks_1', 'blocks_3'):
      block = dict(params[name])
      if name in closed:
        block['modulation'] = jax.tree.map(np.zeros_like, block['modulation'])
      changed[name] = block
    found, other = (np.asarray(apply(params | changed, k)) for k in jax.random.split(key))
    return np.abs(found - other).max()

  assert change(()) > 0.1
  assert change(('blocks_0', 'blocks_3')) > 0.1
  assert change(('blocks_1',)) == 0.0


def test_blocks_are_a_loop_where_that_is_cheaper():
  """Without a loop, XLA would merge what remat computes twice."""
  network = DiT(**TINY, remat=True)
  params = shapes(network)
  x = images()

  def loops(network, function=lambda f: f):
    # Returns how blocks are repeated in a gradient, and if remat is merged.
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, x, NOISE)))
    text = str(jax.make_jaxpr(function(gradient))(params))
    return {*re.findall(r'unroll=(\d+)', text)}, 'prevent_cse=False' in text

  on_gpu = lambda f: on(H100, f)
  in_loop, unrolled = ({'1'}, True), ({'2'}, False)  # of 2 blocks
  assert loops(network) == loops(network.clone(unroll=False), on_gpu) == in_loop
  assert loops(network, on_gpu) == loops(network.clone(unroll=True)) == unrolled


@pytest.mark.slow
def test_what_is_computed_on_gpus_is_the_same(key):
  """On GPUs blocks are unrolled, and the parts of a kernel have separate products."""
  network = DiT(**TINY, **LABELLED, dropout=0.1)
  x = images()
  params = {'params': small_params(network, x, NOISE, LABEL)}

  def loss(params):
    rngs = {'dropout': key}
    out = network.apply(params, x, NOISE, LABEL, train=True, rngs=rngs)
    return jnp.sum(jnp.sin(out))

  here = jax.jit(jax.value_and_grad(loss))(params)
  there = jax.jit(on(H100, jax.value_and_grad(loss)))(params)
  jax.tree.map(functools.partial(close, atol=5e-5), there, here)


def close(found, expected, atol):
  assert_allclose(found, expected, atol=atol, rtol=1e-5)


def test_a_vector_is_a_sequence_of_its_numbers():
  """Positions are learned; channels of the output follow one another."""
  options = {**TINY, 'patch_size': 1, 'positions': 'learned'}
  network = DiT(**options | {'out_channels': 6}, inputs=Inputs(self_conditioning=True))
  sequence = DiT(**options | {'out_channels': 2}, inputs=Inputs(self_conditioning=True))
  x, estimate = np.random.default_rng(0).standard_normal((2, 2, 3), np.float32)
  levels = np.array([[0.3, 0.5, -0.7], [1.0, -0.4, 0.2]], np.float32)
  p = small_params(network, x, NOISE)

  def apply(network, x, noise, estimate):
    return np.asarray(applied(network)({'params': p}, x, noise, {'x0': estimate}))

  for noise in (NOISE, levels):  # of the vector, and of each number
    found = apply(network, x, noise, estimate)
    y = apply(sequence, x[..., None], noise, estimate[..., None])
    assert_allclose(found, np.concatenate([y[..., 0], y[..., 1]], 1))
  # Order matters.
  turned, whole = (apply(network, x, NOISE, 0.0 * x) for x in (x[:, ::-1], x))
  assert np.abs(turned[:, 2::-1] - whole[:, :3]).max() > 1e-3
  with pytest.raises(ValueError, match='out_channels=2 must be a multiple of'):
    shapes(sequence, (1, 3))


# tests/laws/test_padding_changes_nothing.py has a network without these options.
PADDED = {
  'causal': {'inputs': Inputs(valid=True), 'causal': 1, 'registers': 2},
  'words': {'inputs': Inputs(valid=True, **WORDS), 'value_residual': True},
}


@pytest.mark.parametrize('options', PADDED.values(), ids=PADDED)
def test_padding_changes_nothing(options):
  """No token sees what pads a sequence, whatever is there."""
  network = DiT(**TINY | {'patch_size': 1, 'positions': 'rotary'} | options)
  rng = np.random.default_rng(0)
  x, noise = rng.standard_normal((2, 6, 1), np.float32), NOISE
  cond: Any = {'valid': np.array([[True] * 6, [True] * 4 + [False] * 2])}
  if network.inputs.context:
    cond['context'] = rng.standard_normal((2, 5, 3), np.float32)
  params = small_params(network, x, noise, cond)
  run = applied(network)
  found = run({'params': params}, x, noise, cond)
  alone = cond | {'valid': np.ones((2, 4), bool)}
  short = run({'params': params}, x[:, :4], noise, alone)
  assert_allclose(found[1, :4], short[1], rtol=1e-5, atol=1e-6)
  assert np.abs(found[0, :4] - short[0]).max() > (1e-3 if not network.causal else -1.0)
  none = {name: a for name, a in cond.items() if name != 'valid'}
  assert_allclose(run({'params': params}, x[:, :4], noise, none), short, rtol=1e-5, atol=1e-6)
  padded = cond | {'valid': np.pad(cond['valid'], ((0, 0), (0, 7)))}
  longer = np.concatenate([x, np.full((2, 7, 1), np.nan, np.float32)], axis=1)
  more = run({'params': params}, longer, noise, padded)
  assert_allclose(np.where(cond['valid'][..., None], more[:, :6] - found, 0.0), 0.0, atol=1e-6)
  assert np.isfinite(more).all()
  each = run({'params': params}, x, np.repeat(noise[:, None], 6, axis=1), cond)
  assert_allclose(each, found, rtol=1e-5, atol=1e-6)
