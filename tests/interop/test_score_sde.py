"""Weights of score_sde, from Flax and from PyTorch, compute what a transcription does."""

import collections

import jax
import numpy as np
import pytest
from flax import serialization
from numpy.testing import assert_allclose

from diffusion_jax.interop import score_sde, weight_files
from diffusion_jax.interop.options import of_text
from tests.interop import literal as nn

LABELS = np.array([0.5, 713.25])  # 999 t
TINY = of_text('image_size=8 nf=32 ch_mult=1,2 num_res_blocks=1 attn_resolutions=4,')
MODEL = 'vp/cifar10_ddpmpp_continuous'


def norm(w, name, x):
  """recipes 5: min(C / 4, 32) groups, epsilon 1e-6."""
  return nn.group_norm(w, name, x, min(x.shape[1] // 4, 32), 1e-6)


def nin(w, name, x):
  c = x.shape[1]
  kernel = w.get(f'{name}.W', c, c, scale=c**-0.5)  # [in, out]
  return np.einsum('bihw,io->bohw', x, kernel) + w.get(f'{name}.b', c)[:, None, None]


class Modules:
  """all_modules of the PyTorch release: the index of a call is its name."""

  def __init__(self, w):
    self.w, self.n = w, 0

  def name(self):
    self.n += 1
    return f'all_modules.{self.n - 1}'

  def conv(self, x, out):
    return nn.conv(self.w, self.name(), x, out)

  def linear(self, x, out):
    return nn.linear(self.w, self.name(), x, out)

  def norm(self, x):
    return norm(self.w, self.name(), x)

  def block(self, x, temb, out, resample=None):
    """ResnetBlockBigGANpp with skip_rescale."""
    w, name = self.w, self.name()
    h = nn.silu(norm(w, f'{name}.GroupNorm_0', x))
    c = x.shape[1]
    if resample:
      h, x = resample(h), resample(x)
    h = nn.conv(w, f'{name}.Conv_0', h, out)
    h = h + nn.linear(w, f'{name}.Dense_0', nn.silu(temb), out)[:, :, None, None]
    h = nn.conv(w, f'{name}.Conv_1', nn.silu(norm(w, f'{name}.GroupNorm_1', h)), out)
    if resample or c != out:
      x = nn.conv(w, f'{name}.Conv_2', x, out, size=1)
    return (x + h) / np.sqrt(2.0)

  def attention(self, x):
    """AttnBlockpp: one head, query, key and value apart."""
    w, name = self.w, self.name()
    h = norm(w, f'{name}.GroupNorm_0', x)
    q, k, v = (nin(w, f'{name}.NIN_{i}', h).reshape(*x.shape[:2], -1) for i in range(3))
    h = np.stack([nn.attend(*parts) for parts in zip(q, k, v, strict=True)])
    return (x + nin(w, f'{name}.NIN_3', h.reshape(x.shape))) / np.sqrt(2.0)


def halved_input(m, pyramid, h):
  """Downsample with fir and a convolution: the filter, then stride 2."""
  name, blurred = m.name(), nn.fir_down(pyramid, stride=1, padding=(2, 2))
  pyramid = nn.conv(m.w, f'{name}.Conv2d_0', blurred, h.shape[1], stride=2, padding=(0, 0))
  return (pyramid + h) / np.sqrt(2.0)


def ncsnpp(w, x, sigma):
  """recipes 5: x in [-1, 1] already; the output before scale_by_sigma."""
  m = Modules(w)
  angles = np.outer(np.log(sigma), m.w.get(f'{m.name()}.W', 32)) * 2 * np.pi
  temb = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  after_down = lambda h: halved_input(m, x, h)
  return unet(m, x, temb, nn.FILTERS, after_down=after_down)


def ddpmpp(w, x, labels):
  """recipes 5: the sinusoid of 999 t; means and repeated pixels."""
  return unet(Modules(w), x, np.concatenate(nn.sinusoid(labels, 32, last=15), axis=1), nn.MEANS)


def unet(m, x, temb, resample, **options):
  """recipes 5: attention once in a level of the way up, after its blocks."""
  temb = m.linear(temb, 128)
  temb = m.linear(nn.silu(temb), 128)

  def block(place, h, n):
    h = m.block(h, temb, 32 * n, resample.get(place))
    return m.attention(h) if place in nn.ATTENDS and place != 'dec.4x4_block0' else h

  h = nn.unet(m.conv(x, 32), block, **options)
  return m.conv(nn.silu(m.norm(h)), 3)


@pytest.fixture(scope='module')
def theirs():
  w, x = nn.Weights(), nn.images(8)
  return w, x, ddpmpp(w, x, LABELS)


# {a part of a name in a layer: its class}, the first that is there
CLASSES = {
  'NIN': 'AttnBlockpp',
  '.W': 'GaussianFourierProjection',
  'Conv2d_0': 'Downsample',
  'Dense_0': 'ResnetBlockBigGANpp',
}


def legacy_flax(w):
  """Returns the weights by Flax's names, which number the calls of a class."""
  found, seen, names = {}, collections.Counter(), {}
  for name, x in w.file().items():
    _, n, *inner, leaf = name.split('.')
    if n not in names:
      parts = ' '.join(s for s in w if s.startswith(f'all_modules.{n}.'))
      kinds = [kind for part, kind in CLASSES.items() if part in parts]
      kinds += [{1: 'GroupNorm', 2: 'Dense', 4: 'Conv'}.get(x.ndim)]
      names[n] = f'{kinds[0]}_{seen[kinds[0]]}'
      seen[kinds[0]] += 1
    layer = inner[0] if inner else names[n]
    if leaf == 'weight':
      leaf = 'scale' if layer.startswith('GroupNorm') else 'kernel'
      leaf = 'weight' if layer == 'Conv2d_0' else leaf
      x = x.T if x.ndim < 4 else x.transpose(2, 3, 1, 0)
    place = found.setdefault(names[n], {})
    place = place.setdefault(layer, {}) if inner else place
    place[leaf] = x
  return found


def test_the_parameters_of_legacy_flax(theirs, tmp_path):
  """The file is written as flax.training.checkpoints writes their State."""
  w, x, expected = theirs
  params = legacy_flax(w)
  zeros = jax.tree.map(np.zeros_like, params)
  state = {
    'step': 7,
    'optimizer': {'target': zeros, 'state': {'step': 7, 'param_states': zeros}},
    'lr': 2e-4,
    'model_state': {},
    'ema_rate': 0.9999,
    'params_ema': params,
    'rng': np.zeros(2, np.uint32),
  }
  folder = tmp_path / 'vp' / 'cifar10_ddpmpp_continuous'
  folder.mkdir(parents=True)
  path = folder / 'checkpoint_26'
  path.write_bytes(serialization.msgpack_serialize(state))
  found = score_sde.load(path, **TINY)
  nn.assert_close(nn.apply(found, x, LABELS), expected)
  assert not any(a.any() for a in jax.tree.leaves(score_sde.load(path, ema=False, **TINY).params))
  assert found.sections['schedule']['name'] == 'linear_vp'
  assert found.sections['noise_input'] == {'name': 'time', 'scale': 999.0}


def checkpoint(w):
  """Returns their state with a DataParallel model, as torch.save gets it."""
  model = {f'module.{n}': np.zeros_like(x) for n, x in w.file().items()}
  return {
    'optimizer': {'state': {0: {'exp_avg': np.ones(3)}}},
    'model': {'module.sigmas': np.ones(1000)} | model,
    'ema': {'decay': 0.9999, 'num_updates': 9, 'shadow_params': list(w.file().values())},
    'step': 9,
  }


def ordered(w):
  """Returns them in the order in which PyTorch made the layers."""
  inner = ['GroupNorm_0', 'Conv_0', 'Dense_0', 'GroupNorm_1', 'Conv_1']
  inner += ['Conv_2', 'NIN_0', 'NIN_1', 'NIN_2', 'NIN_3', 'Conv2d_0']

  def place(name):
    _, n, *layer, leaf = name.split('.')
    return int(n), inner.index(layer[0]) if layer else 0, leaf not in ('weight', 'W')

  in_order = nn.Weights()
  in_order.update({name: w[name] for name in sorted(w, key=place)})
  return in_order


VE = 've/cifar10_ncsnpp_continuous'


def test_ncsnpp_of_the_ve_sde_as_a_network_of_eps():
  """score = F / sigma of images in [0, 1]: eps = -F, and sigma is doubled."""
  w, x, sigma = nn.Weights(4), nn.images(8), np.array([0.02, 3.0])
  expected = ncsnpp(w, x, sigma)
  state = checkpoint(ordered(w))
  # not trained, so not averaged
  frozen = w.file()['all_modules.0.W']
  state['model']['module.all_modules.0.W'] = frozen
  del state['ema']['shadow_params'][0]
  assert frozen.shape == (32,)
  found, trained = (
    score_sde.from_tensors(weight_files.flatten(state), VE, ema=ema, **TINY)
    for ema in (True, False)
  )
  nn.assert_close(-nn.apply(found, x, np.log(2 * sigma)), expected)
  assert sum(a.any() for a in jax.tree.leaves(trained.params)) == 1
  assert found.sections['schedule']['sigma_max'] == 100.0
  assert found.sections['noise_input'] == {'name': 'log_sigma'}
  flax = score_sde.from_tensors(
    weight_files.flatten({'params_ema': legacy_flax(w)}), VE, **TINY
  ).params
  assert jax.tree.all(jax.tree.map(np.array_equal, flax, found.params))


@pytest.mark.parity
def test_a_pth_is_read_by_torch(theirs, tmp_path):
  torch = pytest.importorskip('torch')
  w = ordered(theirs[0])
  # weights as tensors; jax.tree would sort the names
  state = checkpoint(w)
  state['model'] = {n: torch.tensor(x) for n, x in state['model'].items()}
  state['ema'] |= {'shadow_params': [torch.tensor(x) for x in state['ema']['shadow_params']]}
  state['optimizer'] = {'state': {0: {'exp_avg': torch.ones(3)}}}
  torch.save(state, tmp_path / 'checkpoint_8.pth')
  found = score_sde.load(tmp_path / 'checkpoint_8.pth', MODEL, **TINY).params
  expected = score_sde.from_tensors(w.file(), MODEL, ema=False, **TINY).params
  assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))


def describe(style, model=MODEL, **options):
  return score_sde.describe(score_sde.choose_options(model, **options), style)


def test_the_process_of_the_sub_vp_sde():
  model = describe(score_sde.TORCH, 'subvp/cifar10_ddpmpp_continuous', **TINY)
  assert model.sections['schedule']['name'] == 'sub_vp'


def test_the_discrete_network_has_the_steps_of_ddpm():
  """recipes 5: beta(t) / N, 1e-4 to 2e-2, and labels 0..999."""
  sections = describe(score_sde.TORCH, 'vp/cifar10_ddpmpp', **TINY).sections
  assert sections['noise_input'] == {'name': 'step'}
  ends = sections['schedule']['start'], sections['schedule']['end']
  assert_allclose(ends, (1e-4, 2e-2), rtol=1e-12)


def test_averages_of_another_network_are_refused(theirs):
  tensors = weight_files.flatten(checkpoint(ordered(theirs[0])))
  del tensors['model/module.all_modules.6.NIN_1.W']
  with pytest.raises(ValueError, match='154 tensors, do not have the shapes of'):
    score_sde.from_tensors(tensors, MODEL, **TINY)


def test_files_without_a_network_or_averages(theirs):
  model = {f'model/{name}': x for name, x in theirs[0].file().items()}
  for tensors, message in (
    ({'x': np.zeros(1)}, 'this is not a checkpoint of score_sde'),
    (model, r'\(ema.shadow_params\): pass ema=False'),
    ({'optimizer/target/Dense_0/bias': np.zeros(1)}, r'EMA weights \(params_ema\): pass ema=False'),
  ):
    with pytest.raises(ValueError, match=message):
      score_sde.from_tensors(tensors, MODEL, **TINY)
