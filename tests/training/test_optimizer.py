"""Learning rates, optimizers and EMA rates, against their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks import fused
from diffusion_jax.training import lora, optimizer
from tests.transcribed import transcribes


def make(kind, **options):
  return optimizer.OPTIMIZERS[kind](100, **options)[0]


def first_update(made, grads, params=None) -> Any:
  return jax.jit(lambda g, p: made.update(g, made.init(p), p)[0])(
    grads, grads if params is None else params
  )


def edm2(t, warmup, scale):
  return 0.01 * min(t / warmup, 1) / np.sqrt(max(t / scale, 1))


@transcribes(
  'EDM2 (Karras et al. 2024)',
  'learning rate',
  '`training.optimizer.learning_rate_schedule`',
)
@pytest.mark.parametrize(
  'arguments, expected',
  [
    ((0.3,), {0: 0.3, 7: 0.3}),
    # Ho et al. 2020
    ((2e-4, 5000), {i: 2e-4 * min(i / 5000, 1) for i in (0, 1, 2500, 10**5)}),
    # EDM: lr * min(images / 10M, 1), images counted before the update
    ((1e-3, 19_531), {i: 1e-3 * min(i * 512 / 10e6, 1) for i in (0, 1, 1000, 19_531, 300_000)}),
    ((1.0, 10, 'cosine', 110), {10: 1.0, 60: 0.5, 110: 0.0}),
    ((2.0, 0, 'linear', 100), {0: 2.0, 25: 1.5, 100: 0.0, 150: 0.0}),
    ((0.01, 50, 'inverse_sqrt', 200), {t: edm2(t, 50, 200) for t in (0, 10, 50, 200, 800, 20_000)}),
    # the decay may begin before the end of the warm-up
    ((0.01, 400, 'inverse_sqrt', 100), {1600: 0.01 / 4}),
  ],
)
def test_learning_rates(arguments, expected):
  rate = optimizer.learning_rate_schedule(*arguments)
  steps = np.resize([*expected], 6)  # one shape: it is compiled once
  rates = np.asarray(rate(steps))[: len(expected)]
  assert_allclose(rates, [*expected.values()], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize('decay_steps, end', [(None, 10), (8, 8)])
def test_a_decay_ends_with_the_training_or_at_its_own_step(decay_steps, end):
  _, rate = optimizer.optimizer_and_rate(
    10, learning_rate=1.0, decay='linear', decay_steps=decay_steps
  )
  last, after = jax.jit(jax.vmap(rate))(np.array([end - 1, end]))
  assert_allclose(last, 1 / end, rtol=1e-6)
  assert after == 0.0


@pytest.mark.parametrize('total, peak', [(20, 2), (9, 0), (100, 10), (101, 100)])
@pytest.mark.parametrize('decay', optimizer.ENDING)
def test_a_warm_up_as_long_as_the_training_takes_a_tenth_of_it(total, peak, decay):
  """The decay ends with the training, above 0 before it and 0 from there on."""
  _, rate = optimizer.optimizer_and_rate(total, learning_rate=3.0, warmup_steps=100, decay=decay)
  rates = np.asarray(rate(np.arange(110)))
  assert_allclose(rates[:peak], 3.0 * np.arange(peak) / max(peak, 1), rtol=1e-6)
  assert rates.argmax() == peak
  assert_allclose(rates[peak], 3.0, rtol=1e-6)
  assert rates[total - 1] > 0.0 and not rates[total:].any()


ALL = {'kernel', 'bias', 'scale', 'embedding', 'frequencies'}


@pytest.mark.parametrize(
  'kind, options, decayed',
  [
    ('adamw', {}, {'kernel'}),
    ('adamw', {'weight_decay_mask': 'not_biases'}, ALL - {'bias', 'frequencies'}),
    ('radam', {'weight_decay_mask': 'all'}, ALL - {'frequencies'}),
    ('muon', {}, {'kernel'}),
  ],
)
def test_weight_decay_shrinks_what_its_mask_names(kind, options, decayed):
  """The gradient is missing; fixed random frequencies never change."""
  decaying = make(kind, weight_decay=0.5, **options)
  ones = np.ones((2, 3), np.float32)
  params = {'network': {'layer': dict.fromkeys(ALL, ones)}}
  zero = jax.tree.map(np.zeros_like, params)
  updates = first_update(decaying, zero, params)['network']['layer']
  for name, update in updates.items():
    expected = -0.5 if name in decayed else 0.0
    assert_allclose(update, expected, rtol=1e-5)


def run(made, x, grads, rate=0.01):
  """Returns the parameters, in two leaves, after steps of an optimizer."""
  split = lambda v: {'a': jnp.float32(v[:2]), 'kernel': jnp.float32(v[2:])}

  @jax.jit
  def step(params, state, g):
    updates, state = made.update(g, state, params)
    return jax.tree.map(lambda p, u: p + rate * u, params, updates), state

  params = split(x)
  state = made.init(params)
  for g in grads:
    params, state = step(params, state, split(g))
  return np.concatenate([params['a'], params['kernel']])


def test_adam_with_clipping_literally():
  """Kingma & Ba 2015, Alg. 1, is transcribed in float64, after clipping."""
  rng = np.random.default_rng(0)
  x, grads = rng.standard_normal(4), rng.standard_normal((4, 4))
  found = run(make('adamw', clip_norm=0.1), x, grads)
  m, v = np.zeros(4), np.zeros(4)
  for t, g in enumerate(grads, 1):
    g = g * min(1.0, 0.1 / np.sqrt(g @ g))
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    x = x - 0.01 * step
  assert_allclose(found, x, rtol=1e-5)


@transcribes(
  'RAdam (Liu et al. 2020)',
  'Alg. 2',
  '`training.optimizer.optimizer_and_rate` (`optax.scale_by_radam`)',
)
def test_radam_literally():
  """Liu et al. 2020, Alg. 2, is transcribed; the threshold of code is 5."""
  rng = np.random.default_rng(0)
  x, grads = rng.standard_normal(4), rng.standard_normal((9, 4))
  radam = make('radam', b2=0.9, weight_decay=0.1, clip_norm=0.0)
  found = run(radam, x, grads)
  decay = np.array([0.0, 0.0, 0.1, 0.1])  # kernels only
  m, v, longest = np.zeros(4), np.zeros(4), 2 / (1 - 0.9) - 1
  for t, g in enumerate(grads, 1):
    m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g**2
    step = m / (1 - 0.9**t)
    rho = longest - 2 * t * 0.9**t / (1 - 0.9**t)
    if rho >= 5:
      r = (rho - 4) * (rho - 2) * longest
      r /= (longest - 4) * (longest - 2) * rho
      step = np.sqrt(r) * step / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    x = x - 0.01 * (step + decay * x)
  assert rho >= 5  # both branches were taken
  assert_allclose(found, x, rtol=2e-5, atol=1e-6)


def test_muon_makes_every_matrix_orthogonal():
  """Blocks of a scanned kernel are single matrices, convolutions of 1 to 3 axes are one."""
  rng = np.random.default_rng(0)
  shapes = {
    'one': (6, 4),
    'blocks_0': (3, 6, 4),
    'blocks_1': (2, 3, 3, 4),  # of convolutions
    'sequence': (3, 2, 4),
    'conv': (3, 3, 2, 5),
    'volume': (2, 2, 2, 2, 5),
  }
  params: Any = {
    name: {'kernel': np.zeros(shape), 'bias': np.zeros(4)} for name, shape in shapes.items()
  }
  grads: Any = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), params)
  muon = make('muon', clip_norm=0.0, stacked=('blocks_',))
  updates = jax.device_get(first_update(muon, grads, params))
  matrices = {
    'one': (1, 6, 4),
    'blocks_0': (3, 6, 4),
    'blocks_1': (2, 9, 4),
    'sequence': (1, 6, 4),
    'conv': (1, 18, 5),
    'volume': (1, 16, 5),
  }
  for name, shape in matrices.items():
    both = (x[name]['kernel'].reshape(shape) for x in (updates, grads))
    for update, g in zip(*both, strict=True):
      u, s, v = np.linalg.svd(np.float64(g), full_matrices=False)
      expected = -0.2 * np.sqrt(max(g.shape)) * (u @ v)
      cosine = np.sum(update * expected)
      cosine /= np.linalg.norm(update) * np.linalg.norm(expected)
      assert cosine > 0.95  # Newton-Schulz leaves singular values of 0.7 to 1.2
      ratio = np.linalg.norm(update) / np.linalg.norm(expected)
      assert 0.7 < ratio < 1.25
  # Adam is used for biases: its first steps are 1
  bias = np.abs(updates['one']['bias'])
  assert (0.5 < bias).all() and (bias < 2.5).all()


def test_muon_asks_whether_three_axes_are_a_convolution():
  shapes = {'layer': {'kernel': np.zeros((3, 2, 4)), 'bias': np.zeros(4)}}
  with pytest.raises(ValueError, match=r'the kernel layer \[3, 2, 4\] may belong to a convolution'):
    make('muon').init(shapes)


# The matrix of each output of a kernel, written by hand: with two heads of 2 channels a matrix.
FUSED = {
  'legacy': (fused.qkv_layout('legacy', 2, None), 'qqkkvvqqkkvv'),
  'legacy_by_channels': (fused.qkv_layout('legacy', 1, 2), 'qqkkvvqqkkvv'),
  'new': (fused.qkv_layout('new', 2, None), 'qqqqkkkkvvvv'),
  'interleaved': (fused.qkv_layout('interleaved', 2, None), 'qkvqkvqkvqkv'),
  'adaln': (fused.pieces(4), 'aaaabbbbccccddddeeeeffff'),
  'swiglu': (fused.Layout((2, -1)), 'gggggvvvvv'),
}


@pytest.mark.parametrize('depth', [(), (2,)])
@pytest.mark.parametrize('name', FUSED)
def test_muon_makes_every_part_of_a_fused_kernel_orthogonal(name, depth):
  """A part that is 100 times as large as another moves as far, in all of its directions."""
  layout, letters = FUSED[name]
  rng = np.random.default_rng(0)
  parts = [[i for i, x in enumerate(letters) if x == part] for part in sorted({*letters})]
  grads = rng.normal(size=(*depth, 5, len(letters))).astype(np.float32)
  for power, columns in enumerate(parts):
    grads[..., columns] *= 100.0**power
  tree = {'blocks_0' if depth else 'block': {'layer': {'kernel': grads}}}
  muon = make('muon', clip_norm=0.0, fused={'other': layout, 'layer': layout}, stacked=('blocks_',))
  (update,) = jax.tree.leaves(jax.device_get(first_update(muon, tree)))
  for columns in parts:
    each = (x[..., columns].reshape(-1, 5, len(columns)) for x in (update, grads))
    for moved, g in zip(*each, strict=True):
      u, _, v = np.linalg.svd(np.float64(g), full_matrices=False)
      expected = -0.2 * np.sqrt(5) * (u @ v)
      singular = np.linalg.svd(moved, compute_uv=False) / (0.2 * np.sqrt(5))
      assert 0.6 < singular.min() and singular.max() < 1.3
      assert np.sum(moved * expected) > 0.95 * np.linalg.norm(moved) * np.linalg.norm(expected)


@pytest.mark.parametrize('rank', [2, 4])
def test_muon_takes_the_first_matrix_of_an_adapter_as_one(rank):
  """Only the columns of B belong to the parts of a fused kernel W = A B."""
  adapters = lora.lora_init(jax.random.key(0), {'layer': {'kernel': np.zeros((5, 8))}}, rank)
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), adapters)
  update = first_update(make('muon', clip_norm=0.0, fused={'layer': fused.Layout((2, -1))}), grads)
  a, b = (np.asarray(update[name]['layer']['kernel']) for name in (lora.A, lora.B))
  for x in (a, b[:, :4], b[:, 4:]):
    singular = np.linalg.svd(x, compute_uv=False) / (0.2 * np.sqrt(max(x.shape)))
    assert 0.6 < singular.min() and singular.max() < 1.3


@transcribes('EDM (Karras et al. 2022)', 'averages by half-life; gradients repaired')
def test_edm_repairs_gradients_before_all_else():
  """NaN becomes 0 and inf 1e5 before clipping and Adam."""
  broken = {'a': np.float32([1.0, np.nan]), 'b': np.float32([np.inf, -np.inf])}
  repaired = {'a': np.float32([1.0, 0.0]), 'b': np.float32([1e5, -1e5])}
  jax.tree.map(assert_array_equal, jax.jit(optimizer.repair)(broken), repaired)
  for clip_norm in (0.0, 0.5):
    safe, plain = (make('adamw', clip_norm=clip_norm, repair_gradients=on) for on in (True, False))
    updates = lambda broken, repaired, safe=safe, plain=plain: (
      first_update(safe, broken),
      first_update(plain, repaired),
      first_update(plain, broken),
    )
    found, expected, spoilt = jax.jit(updates)(broken, repaired)
    jax.tree.map(assert_array_equal, found, expected)
    assert not np.isfinite(spoilt['a']).all()


@transcribes(
  'EDM (Karras et al. 2022)',
  'averages by half-life; gradients repaired',
  '`training.optimizer.ema_half_life`, `.repair`',
)
def test_the_half_life_of_edm():
  """The rate is 1 - 0.5^(batch / min(half-life, 0.05 images))."""
  half_life, batch = 500_000, 512
  rate = jax.jit(optimizer.ema_half_life(half_life, batch, rampup=0.05))
  for step in (0, 1, 10, 5000, 19_531, 19_532, 390_625):
    seen = step * batch  # before the update
    beta = 0.5 ** (batch / max(min(half_life, 0.05 * seen), 1e-8))
    assert_allclose(rate(step), 1 - beta, rtol=1e-6)
  constant = optimizer.ema_half_life(half_life, batch)
  expected = 1 - 0.5 ** (512 / 500_000)
  assert_allclose(constant(jnp.array(5)), expected, rtol=1e-6)
  assert constant(jnp.array(0)) == 1.0  # as `ema_decay`
