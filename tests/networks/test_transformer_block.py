"""Compares one block of each kind with its equations in float64."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.networks.tokens import rotary_angles
from diffusion_jax.networks.transformer_block import Beside, Block
from tests.networks.literal import attend, dense, gelu, heads, layer_norm, random_params, swish
from tests.transcribed import transcribes

B, T, D, HEADS, WORDS = 2, 6, 8, 2, 5  # a grid of 2 x 3 patches
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def rms_norm(x, p):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p['scale']


def turn(x, kept=None):
  """Rotates by both axes of the grid, whose tokens, or those that are kept, come last."""
  kept = np.tile(np.arange(T), (B, 1)) if kept is None else kept
  first = x[:, : x.shape[1] - kept.shape[1]]
  x = x[:, x.shape[1] - kept.shape[1] :]
  z = x[..., 0::2] + 1j * x[..., 1::2]
  pairs = z.shape[-1]
  for b, token in np.ndindex(kept.shape):
    for pair in range(pairs):
      row, column = divmod(kept[b, token], 3)
      place = row if pair < pairs // 2 else column
      angle = place / 10000 ** (pair % (pairs // 2) / (pairs // 2))
      z[b, token, :, pair] *= np.exp(1j * angle)
  turned = np.stack([z.real, z.imag], axis=-1).reshape(x.shape)
  return np.concatenate([first, turned], axis=1)


def qkv(x, p, prefix, norm, parts, first=None):
  shift, scale = parts[:2]
  h = norm(x, p.get(f'{prefix}norm_1')) * (1 + scale) + shift
  q, k, v = (heads(part, HEADS) for part in np.split(dense(p[f'{prefix}qkv'], h), 3, axis=-1))
  if f'{prefix}query_norm' in p:
    q = rms_norm(q, p[f'{prefix}query_norm'])
    k = rms_norm(k, p[f'{prefix}key_norm'])
  if first is not None:  # Zhou et al. 2025
    of_first, own = p[f'{prefix}value_weights']
    v = of_first * first + own * v
  return q, k, v


def values(x, c, p, prefix=''):
  """The values of a block."""
  norm = rms_norm if 'norm_1' in p else layer_norm
  return qkv(x, p, prefix, norm, modulation(c, p, prefix, 6))[2]


def modulation(c, p, prefix, count, name='modulation'):
  out = dense(p[f'{prefix}{name}'], swish(c))
  out = out if out.ndim == 3 else out[:, None]
  return np.split(out, count, axis=-1)


def mlp(h, p, prefix, swiglu):
  h = dense(p[f'{prefix}mlp_in'], h)
  if swiglu:
    half = h.shape[-1] // 2
    h = swish(h[..., :half]) * h[..., half:]
  else:
    h = gelu(h)
  return dense(p[f'{prefix}mlp_out'], h)


def block(x, c, p, swiglu=False, rotary=False, words=None, first=None, kept=None):
  """Computes DiT's block; with options JiT's, or the block with words."""
  norm = rms_norm if 'norm_1' in p else layer_norm
  parts = modulation(c, p, '', 6)
  q, k, v = qkv(x, p, '', norm, parts, first)
  if rotary:
    q, k = turn(q, kept), turn(k, kept)
  return rest(x, attend(q, k, v), p, '', norm, parts, swiglu=swiglu, words=words)


def rest(x, attended, p, prefix, norm, parts, swiglu=False, words=None):
  gate_1, shift, scale, gate_2 = parts[2:]
  x = x + gate_1 * dense(p[f'{prefix}proj'], attended)
  if words is not None:
    q = heads(dense(p['cross_query'], norm(x)), HEADS)
    k, v = (heads(dense(p[f'cross_{n}'], words), HEADS) for n in ('key', 'value'))
    x = x + dense(p['cross_proj'], attend(q, k, v, MASK))
  h = norm(x, p.get(f'{prefix}norm_2')) * (1 + scale) + shift
  return x + gate_2 * mlp(h, p, prefix, swiglu)


def joint_block(x, text, c, p, ends, first=(None, None)):
  """MM-DiT, Esser et al. 2024, figure 2."""
  parts = modulation(c, p, '', 6)
  text_parts = modulation(c, p, 'text_', 2 if ends else 6)
  image = qkv(x, p, '', layer_norm, parts, first[0])
  others = qkv(text, p, 'text_', layer_norm, text_parts, first[1])
  q, k, v = (np.concatenate(pair, axis=1) for pair in zip(image, others, strict=True))
  mask = np.concatenate([np.ones((B, T), bool), MASK], axis=1)
  out = attend(q, k, v, mask)
  x = rest(x, out[:, :T], p, '', layer_norm, parts)
  if ends:
    return x, text
  return x, rest(text, out[:, T:], p, 'text_', layer_norm, text_parts)


def inputs():
  rng = np.random.default_rng(0)
  x, text, c = (rng.normal(size=s) for s in ((B, T, D), (B, WORDS, D), (B, D)))
  words = rng.normal(size=(B, WORDS, 3))
  return x, text, c, words


def run(network, carry, c, angles=None, words=None, first=None):
  """Returns the block's output and its random parameters."""
  carry, c, angles, words, first = jax.tree.map(np.float32, (carry, c, angles, words, first))
  beside = Beside(c, angles)
  params = random_params(network, carry, beside, words, MASK, first, seed=1, scale=0.3)
  found, _ = applied(network, params, carry, beside, words, MASK, first)
  return found, jax.tree.map(np.float64, params)


@functools.partial(jax.jit, static_argnums=0)
def applied(network, params, *inputs):
  return network.apply({'params': params}, *inputs)


def close(found, expected):
  error = np.abs(np.asarray(found, np.float64) - expected).max()
  assert error < 1e-6 * np.abs(expected).max()


JIT: Any = {'norm': 'rms', 'qk_norm': True, 'mlp': 'swiglu'}
CROSS: Any = {'text': 'cross'}


@transcribes(
  'DiT (Peebles & Xie 2023); JiT (Li & He 2025)',
  'blocks: adaLN-Zero; RMSNorm, norms of q and k, rotary positions, SwiGLU',
  '`networks.transformer_block.Block`',
)
@pytest.mark.parametrize('options', [{}, JIT, CROSS])
def test_each_block_is_its_equations(options):
  x, _, c, words = inputs()
  jit, words = options is JIT, words if options is CROSS else None
  angles = rotary_angles((2, 3), D // HEADS) if jit else None
  (found, *_), p = run(Block(HEADS, **options), (x, None, None), c, angles, words)
  if jit:
    assert p['mlp_in']['kernel'].shape == (8, 42)  # 2 * 2 * 32 / 3, down
  close(found, block(x, c, p, swiglu=jit, rotary=jit, words=words))


@transcribes(
  'MM-DiT (Esser et al. 2024)',
  'figure 2: two streams, one attention',
  '`networks.transformer_block.Block`',
)
@pytest.mark.parametrize('has_first', [False, True])
@pytest.mark.parametrize('ends', [False, True])
def test_mm_dits_block(ends, has_first):
  x, text, c, _ = inputs()
  shapes = (B, T, HEADS, D // HEADS), (B, WORDS, HEADS, D // HEADS)
  first = tuple(np.random.default_rng(3).normal(size=shape) for shape in shapes)
  network = Block(HEADS, text='joint', text_ends=ends)
  (found, found_text, _), p = run(network, (x, text, None), c, first=first if has_first else None)
  expected, expected_text = joint_block(x, text, c, p, ends, *([first] if has_first else []))
  close(found, expected)
  # masked words have outputs too, which nothing uses
  close(found_text, expected_text)


@pytest.mark.parametrize('kind', ['cross', 'joint'])
def test_a_block_begins_as_the_identity(kind):
  x, text, c, words = inputs()
  text, words = (None, words) if kind == 'cross' else (text, None)
  network = Block(HEADS, text=kind)
  carry, c, words = jax.tree.map(np.float32, ((x, text, None), c, words))

  @jax.jit
  def ends(key):
    p = network.init(key, carry, Beside(c), words, MASK)['params']
    return {name: p[name] for name in p if name.endswith(('modulation', 'cross_proj'))}

  params = random_params(network, carry, Beside(c), words, MASK) | ends(jax.random.key(0))
  found, _ = applied(network, params, carry, Beside(c), words, MASK)
  jax.tree.map(assert_array_equal, found, carry)
