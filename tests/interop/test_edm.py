"""Weights of EDM's networks compute what a float64 transcription does, by their wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.interop import edm
from diffusion_jax.interop.options import of_text
from tests.interop import literal as nn
from tests.transcribed import transcribes

NOISE = np.array([-0.7, 0.4])  # log(sigma) / 4
OUTER = 'precond=EDMPrecond img_resolution=8 label_dim=3 num_blocks=1 attn_resolutions=4, '
SONG = of_text(f'{OUTER} model_type=SongUNet augment_dim=9 model_channels=32 channel_mult=1,2')
ADM = of_text(
  f'{OUTER} model_type=DhariwalUNet model_channels=128 channel_mult=1,1 label_dropout=0.1'
)


def norm(w, name, x, eps):
  """recipes 6: 32 groups, or fewer, of 4 channels each."""
  return nn.group_norm(w, name, x, min(32, x.shape[1] // 4), eps)


def attention(w, name, x, heads, eps):
  """recipes 6: channel 3c + j of a head of qkv is q, k or v of channel c."""
  b, c, height, width = x.shape
  h = norm(w, f'{name}.norm2', x, eps)
  qkv = nn.conv(w, f'{name}.qkv', h, 3 * c, size=1)
  qkv = qkv.reshape(b, heads, 3 * c // heads, -1)
  split = lambda image: [(h[0::3], h[1::3], h[2::3]) for h in image]
  h = nn.attention(qkv, split)
  return x + nn.conv(w, f'{name}.proj', h.reshape(x.shape), c, size=1)


def resampled(w, name, x, resample):
  """The two-dimensional filter is a buffer of each layer."""
  line = np.ones(2) if resample in (nn.pooled, nn.nearest) else nn.FIR
  w[f'{name}.resample_filter'] = (np.outer(line, line) / line.sum() ** 2)[None, None]
  return resample(x)


def residual_input(w, name, aux, h):
  """A 3x3 convolution, then the filter; zeros, two pixels, before both."""
  wide = nn.correlate(aux, w.get(f'{name}.weight', h.shape[1], aux.shape[1], 3, 3), 1, (2, 2))
  halved = resampled(w, name, wide, lambda x: nn.fir_down(x, padding=(0, 0)))
  return (h + halved + w.get(f'{name}.bias', h.shape[1])[:, None, None]) / np.sqrt(2.0)


def unet_block(w, name, x, emb, out, adm, resample, attends):
  """recipes 6, 3.1: the last silu is already applied to emb."""
  eps, scale = (1e-5, 1.0) if adm else (1e-6, np.sqrt(0.5))
  skip, h = x, nn.silu(norm(w, f'{name}.norm0', x, eps))
  if resample:
    h = resampled(w, f'{name}.conv0', h, resample)
    skip = resampled(w, f'{name}.skip', skip, resample)
  h = nn.conv(w, f'{name}.conv0', h, out)
  e = nn.linear(w, f'{name}.affine', emb, out * (1 + adm))[:, :, None, None]
  if adm:
    h = norm(w, f'{name}.norm1', h, eps) * (1.0 + e[:, :out]) + e[:, out:]
  else:
    h = norm(w, f'{name}.norm1', h + e, eps)
  h = nn.conv(w, f'{name}.conv1', nn.silu(h), out)
  if x.shape[1] != out or (resample and not adm):
    skip = nn.conv(w, f'{name}.skip', skip, out, size=1)
  h = scale * (skip + h)
  heads = out // 64 if adm else 1  # of ADM, they have 64 channels
  return scale * attention(w, name, h, heads, eps) if attends else h


def blocks(w, x, emb, widths, adm=False, ncsnpp=False):
  """enc and dec: ADM has attention after each block of the second level."""
  kinds = nn.FILTERS if ncsnpp else nn.MEANS

  def block(name, h, n):
    attends = name in nn.ATTENDS and (adm or name != 'dec.4x4_block0')
    return unet_block(
      w, f'model.{name}', h, emb, widths[n - 1], adm=adm, resample=kinds.get(name), attends=attends
    )

  def after_down(h):
    return residual_input(w, 'model.enc.4x4_aux_residual', x, h) if ncsnpp else h

  h = nn.conv(w, 'model.enc.8x8_conv', x, widths[0])
  return nn.unet(h, block, after_down=after_down)


def song_unet(w, x, noise, one_hot=None, augment=None, ncsnpp=False):
  """recipes 6: DDPM++ or NCSN++; labels and augmentation join the sinusoid."""
  m, wide = 'model.', 64 if ncsnpp else 32
  e = np.concatenate(nn.sinusoid(noise, 32, last=15), axis=1)
  if ncsnpp:  # sin and cos of 2 pi f noise
    angles = 2 * np.pi * np.outer(noise, w.get(f'{m}map_noise.freqs', 32))
    e = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  if one_hot is not None:
    e = e + nn.linear(w, f'{m}map_label', np.sqrt(3) * one_hot, wide)
    e = e + nn.linear(w, f'{m}map_augment', augment, wide, bias=False)
  e = nn.silu(nn.linear(w, f'{m}map_layer0', e, 128))
  e = nn.silu(nn.linear(w, f'{m}map_layer1', e, 128))
  h = blocks(w, x, e, (32, 64), ncsnpp=ncsnpp)
  h = nn.silu(norm(w, f'{m}dec.8x8_aux_norm', h, 1e-6))
  return nn.conv(w, f'{m}dec.8x8_aux_conv', h, 3)


def dhariwal_unet(w, x, noise, one_hot, out=3):
  """recipes 6 and 3.1: ADM; labels are added after the second layer."""
  m = 'model.'
  sin, cos = nn.sinusoid(noise, 128, last=64)
  e = nn.linear(w, f'{m}map_layer0', np.concatenate([cos, sin], axis=1), 512)
  e = nn.linear(w, f'{m}map_layer1', nn.silu(e), 512)
  e = nn.silu(e + nn.linear(w, f'{m}map_label', one_hot, 512, bias=False))
  h = nn.silu(norm(w, f'{m}out_norm', blocks(w, x, e, (128, 128), True), 1e-5))
  return nn.conv(w, f'{m}out_conv', h, out)


ONE_HOT = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])  # no label is zeros
COND = {'label': np.array([2, 0]), 'drop': np.array([False, True])}
AUGMENT = np.random.default_rng(5).integers(-2, 3, (2, 9)) / 2.0


@transcribes('EDM (Karras et al. 2022)', 'the network', '`networks.ddpmpp.DDPMpp`')
def test_edms_ddpmpp(tmp_path):
  w, x = nn.Weights(), nn.images(8)
  expected = song_unet(w, x, NOISE, ONE_HOT, AUGMENT)
  found = edm.load(nn.store(tmp_path, w, SONG | dict(label_dropout=0.1)))
  nn.assert_close(nn.apply(found, x, NOISE, COND | {'augment': AUGMENT}), expected)
  assert found.sections['network']['name'] == 'ddpmpp'
  assert found.sections['conditioning']['augment'] > 0


NCSNPP = of_text("""
  encoder_type=residual embedding_type=fourier channel_mult_noise=2 resample_filter=1,3,3,1
""")


LABELLED = SONG | NCSNPP | dict(label_dropout=0.1)


def test_edms_ncsnpp():
  """The filter is 1, 3, 3, 1, and each resolution gets the input."""
  w, x, options = nn.Weights(2), nn.images(8), LABELLED
  expected = song_unet(w, x, NOISE, ONE_HOT, AUGMENT, ncsnpp=True)
  found = edm.from_tensors(w.file(), **options)
  nn.assert_close(nn.apply(found, x, NOISE, COND | {'augment': AUGMENT}), expected)
  assert found.sections['network']['resample_filter'] == (1, 3, 3, 1)
  with pytest.raises(ValueError, match='is not the filter of the option resam'):
    edm.from_tensors(w.file(), **options | dict(resample_filter=[1, 2, 2, 1]))


def test_edms_adm():
  """The row of its null class, which EDM does not store, is zeros."""
  w, x, options = nn.Weights(1), nn.images(8), dict(precond='iDDPMPrecond')
  expected = dhariwal_unet(w, x, NOISE, ONE_HOT, out=6)
  w['u'] = np.zeros(1001)
  found = edm.from_tensors(w.file(), **ADM | options)
  nn.assert_close(nn.apply(found, x, NOISE, COND), expected)
  assert found.network.out_channels == 6
  assert found.sections['network']['qkv'] == 'interleaved'
  assert found.sections['conditioning']['dropout'] == 0.1
  assert found.sections['objective']['name'] == 'hybrid'
  assert found.sections['schedule']['name'] == 'cosine'
  describe = lambda **more: edm.describe(edm.choose_options(**ADM | more))
  plain, other = describe(), describe(**options)
  assert plain.network == found.network.clone(out_channels=3)
  assert plain.layers == other.layers
  for name in ('network', 'conditioning'):
    assert plain.sections[name] == found.sections[name]


# The wrappers of recipes 6, of x, sigma [2, 1, 1, 1], t [2] and any F.
def of_edm(f, x, s, t):
  norm = np.sqrt(s**2 + 0.25)
  return 0.25 / norm**2 * x + 0.5 * s / norm * f(x / norm, np.log(s) / 4)


def of_vp(f, x, s, t):  # x is divided by sqrt(sigma^2 + 1) already
  return np.sqrt(s**2 + 1) * x - s * f(x, 999 * t[:, None, None, None])


@pytest.mark.parametrize(
  'wrapper, options, section, noise_input',
  [
    (of_edm, dict(sigma_data=0.5), {'name': 'edm'}, dj.edm_input),
    (of_vp, dict(precond='VPPrecond'), {'name': 'time', 'scale': 999.0}, dj.time_input(999.0)),
  ],
)
def test_the_denoisers_of_the_wrappers(wrapper, options, section, noise_input):
  """F is sin(x) times its noise, so that factors inside and outside differ."""
  sections = edm.describe(edm.choose_options(**SONG | options)).sections
  assert sections['noise_input'] == section
  x, t = nn.images(8), np.array([0.0625, 0.5])  # exact in float32
  sigma = np.array([0.05, 20.0])
  to_level = lambda t: dj.NoiseLevel(np.zeros(2), np.ones(2), sigma)
  if wrapper is of_vp:
    sigma = np.sqrt(np.exp(9.95 * t**2 + 0.1 * t) - 1.0)
    to_level = dj.LinearVPSchedule(
      sections['schedule']['beta_min'], sections['schedule']['beta_max']
    )
  name = sections['parametrization']['name']
  times = lambda params, x, noise, cond, *, key=None: jnp.sin(x) * noise[:, None, None, None]
  network = dj.Network(times, noise_input, parametrization=name, sigma_data=0.5)
  denoise = jax.jit(lambda x, t: network.denoiser({}, {})(x, to_level(t)).x0)
  f = lambda x, noise: np.sin(x) * noise
  nn.assert_close(np.asarray(denoise(x, t)), wrapper(f, x, sigma[:, None, None, None], t))


def test_the_ve_wrapper_as_a_network_of_eps():
  """recipes 6: x + sigma F(x, log(sigma / 2)) is x - sigma eps.

  The network is the labelled one, which is compiled already, without labels.
  """
  w, x, sigma = nn.Weights(6), nn.images(8), np.array([0.05, 20.0])
  f = song_unet(w, x, np.log(sigma / 2), ncsnpp=True)
  plain = dict(label_dim=0, augment_dim=0, precond='VEPrecond')
  found = edm.from_tensors(w.file(), **SONG | NCSNPP | plain)
  labelled = edm.describe(edm.choose_options(**LABELLED))
  assert found.network == labelled.network.clone(inputs=found.network.inputs)
  zeros = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), labelled.shapes())
  labelled = found._replace(network=labelled.network, params=zeros | found.params)
  cond = COND | {'augment': AUGMENT}
  nn.assert_close(-nn.apply(labelled, x, np.log(sigma), cond), f)
  assert found.sections['parametrization'] == {'name': 'eps'}
  assert found.sections['noise_input'] == {'name': 'log_sigma'}
  assert found.sections['schedule']['sigma_max'] == 100


def test_the_options_lie_beside_the_weights(tmp_path):
  path = tmp_path / 'edm.safetensors'
  with pytest.raises(ValueError, match=r'edm\.json is missing'):
    edm.load(path)
