import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.unet import UNet

TINY = dict(
  channels=8,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=4,
  out_channels=3,
)


def shapes(network, size, channels=3, cond=None):
  x = jnp.zeros((1, size, size, channels))
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), x, jnp.zeros(1), cond)['params']
  )


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_ddpm_cifar10_has_the_published_number_of_parameters():
  assert count(shapes(UNet(), 32)) == 35_746_307


def test_ddpm_256_has_the_published_layout():
  """recipes 1.1: (1, 1, 2, 2, 4, 4), attention at 16.

  Counted here level by level from the description, not read off the network.
  """
  ch, multipliers = 128, (1, 1, 2, 2, 4, 4)
  conv = lambda i, o, k=3: k * k * i * o + o
  norm = lambda c: 2 * c

  def block(i, o):
    shortcut = conv(i, o, 1) if i != o else 0
    embedding = conv(4 * ch, o, 1)
    return norm(i) + conv(i, o) + embedding + norm(o) + conv(o, o) + shortcut

  attention = lambda c: norm(c) + 4 * conv(c, c, 1)
  total = conv(ch, 4 * ch, 1) + conv(4 * ch, 4 * ch, 1) + conv(3, ch)
  skips, width, size = [ch], ch, 256
  for level, m in enumerate(multipliers):
    for _ in range(2):
      total += block(width, m * ch) + (attention(m * ch) if size == 16 else 0)
      width = m * ch
      skips.append(width)
    if level < 5:
      total += conv(width, width)
      skips.append(width)
      size //= 2
  total += 2 * block(width, width) + attention(width)
  for level, m in reversed(list(enumerate(multipliers))):
    for _ in range(3):
      total += block(width + skips.pop(), m * ch)
      total += attention(m * ch) if size == 16 else 0
      width = m * ch
    if level:
      total += conv(width, width)
      size *= 2
  total += norm(width) + conv(width, 3)
  assert not skips
  assert count(shapes(UNet(multipliers=multipliers, dropout=0.0), 256)) == total


def test_every_submodule_has_a_name_of_ours():
  """Flax's automatic names change with wrappers such as remat."""
  tree = shapes(
    UNet(**TINY, num_classes=3), 8, cond={'label': jnp.zeros(1, int)}
  )
  paths = jax.tree_util.tree_flatten_with_path(tree)[0]
  names = {key.key for path, _ in paths for key in path}
  assert not [name for name in names if name[0].isupper()]
  assert set(tree) == {
    'noise_dense_1',
    'noise_dense_2',
    'label_embedding',
    'conv_in',
    'down_0_0_block',
    'down_0_downsample',
    'down_1_0_block',
    'down_1_0_attention',
    'middle_0_block',
    'middle_attention',
    'middle_1_block',
    'up_1_0_block',
    'up_1_0_attention',
    'up_1_1_block',
    'up_1_1_attention',
    'up_1_upsample',
    'up_0_0_block',
    'up_0_1_block',
    'norm_out',
    'conv_out',
  }


@pytest.fixture(scope='module')
def tiny():
  network = UNet(**TINY, dropout=0.5, num_classes=3, null_class=True)
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  noise, label = jnp.array([3.0, 700.0]), {'label': jnp.array([0, 2])}
  variables = jax.jit(network.init)(jax.random.key(0), x, noise, label)
  # away from the initial zeros, so that everything shows in the output
  variables = jax.tree.map(
    lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), variables
  )
  apply = jax.jit(network.apply, static_argnames='train')
  return lambda *args, **kw: apply(variables, *args, **kw), x, noise, label


def test_output_has_the_shape_and_depends_on_everything(tiny):
  apply, x, noise, label = tiny
  out = apply(x, noise, label)
  assert out.shape == (2, 8, 8, 3) and out.dtype == jnp.float32
  other = [
    apply(x + 0.1, noise, label),
    apply(x, noise + 1.0, label),
    apply(x, noise, {'label': jnp.array([1, 1])}),
    apply(x, noise, label | {'drop': jnp.array([True, True])}),
  ]
  for changed in other:
    assert (np.abs(changed - out).max(axis=(1, 2, 3)) > 1e-4).all()


def test_examples_do_not_see_one_another(tiny):
  apply, x, noise, label = tiny
  out = apply(x, noise, label)
  swapped = apply(x[::-1], noise[::-1], {'label': label['label'][::-1]})
  np.testing.assert_allclose(swapped[::-1], out, atol=1e-5)


def test_dropout_acts_in_training_only(tiny):
  apply, x, noise, label = tiny
  key = jax.random.key(3)
  a, b = (
    apply(x, noise, label, train=True, rngs={'dropout': k})
    for k in jax.random.split(key)
  )
  assert np.abs(a - b).max() > 1e-3
  np.testing.assert_array_equal(
    apply(x, noise, label), apply(x, noise, label, train=False)
  )


def test_an_untrained_network_predicts_almost_nothing(key):
  """Branches and output begin at 1e-10 (recipes 1.1)."""
  network = UNet(**TINY)
  x = jax.random.normal(key, (1, 8, 8, 3))
  out, _ = jax.jit(network.init_with_output)(key, x, jnp.zeros(1))
  assert 0.0 < np.abs(out).max() < 1e-3


def test_bfloat16_keeps_parameters_norms_and_softmax_in_float32(key):
  x = jax.random.normal(key, (2, 8, 8, 3))
  noise = jnp.array([3.0, 700.0])
  full, half = UNet(**TINY), UNet(**TINY, dtype=jnp.bfloat16)
  variables = jax.jit(half.init)(key, x, noise)
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32
  variables = jax.tree.map(
    lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), variables
  )
  a, b = (jax.jit(n.apply)(variables, x, noise) for n in (full, half))
  assert 0.0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()

  used = {}
  jaxpr = jax.make_jaxpr(half.apply)(variables, x, noise)
  for eqn in all_equations(jaxpr.jaxpr):
    used.setdefault(eqn.primitive.name, set()).add(
      str(eqn.outvars[0].aval.dtype)
    )
  assert used['rsqrt'] == {'float32'}  # of the norms
  assert used['exp'] == {'float32'}  # of the softmax
  assert 'bfloat16' in used['custom_jvp_call'] | used['dot_general']


def all_equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      yield from all_equations(inner)


def test_refusals(key):
  x = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ValueError, match='7x8 cannot be halved 1 times'):
    UNet(**TINY).init(key, jnp.zeros((1, 7, 8, 3)), jnp.zeros(1))
  with pytest.raises(ValueError, match=r"no condition \['label'\]"):
    UNet(**TINY).init(key, x, jnp.zeros(1), {'label': jnp.zeros(1, int)})
