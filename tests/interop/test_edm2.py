"""Networks of EDM2 by their names, against a float64 transcription."""

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.interop import edm2
from diffusion_jax.interop.options import of_text
from diffusion_jax.networks.edm2 import Uncertainty
from tests.interop import literal as nn
from tests.transcribed import transcribes

OPTIONS = of_text("""
  img_resolution=8 label_dim=3 model_channels=8 channel_mult=1,2 num_blocks=1 attn_resolutions=4,
  channels_per_head=4 logvar_channels=6
""")
SIGMA = np.array([0.1, 3.0])


def normalized(x, axis):
  """Eq. 30 and 50: x / (1e-4 + rms)."""
  return x / (1e-4 + np.sqrt(np.mean(x**2, axis=axis, keepdims=True)))


def mp_conv(w, name, x, out, size=0, gain=1.0):
  kernel = (size, size) if size else ()
  weight = w.get(f'{name}.weight', out, x.shape[1], *kernel)
  axes = tuple(range(1, weight.ndim))
  weight = normalized(weight, axes) * (gain / np.sqrt(np.prod(weight.shape[1:])))
  if not size:
    return x @ weight.T
  return nn.correlate(x, weight, 1, (size // 2, size // 2))


def mp_fourier(w, name, x, features):
  freqs = w.get(f'{name}.freqs', features, scale=6.28)
  return np.sqrt(2.0) * np.cos(np.outer(x, freqs) + w.get(f'{name}.phases', features, scale=6.28))


def mp_silu(x):
  return nn.silu(x) / 0.596


def mp_sum(a, b, t):
  return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b):
  n, m = a.shape[1], b.shape[1]
  c = np.sqrt((n + m) / 0.5)
  return np.concatenate([c / np.sqrt(n) * 0.5 * a, c / np.sqrt(m) * 0.5 * b], 1)


def block(w, place, x, emb, out):
  name, encodes = f'unet.{place}', place.startswith('enc')
  x = nn.MEANS[place](x) if place in nn.MEANS else x
  if encodes:
    if x.shape[1] != out:
      x = mp_conv(w, f'{name}.conv_skip', x, out, 1)
    x = normalized(x, 1)
  y = mp_conv(w, f'{name}.conv_res0', mp_silu(x), out, 3)
  c = mp_conv(w, f'{name}.emb_linear', emb, out, gain=w.get(f'{name}.emb_gain')) + 1.0
  y = mp_conv(w, f'{name}.conv_res1', mp_silu(y * c[:, :, None, None]), out, 3)
  if not encodes and x.shape[1] != out:
    x = mp_conv(w, f'{name}.conv_skip', x, out, 1)
  x = mp_sum(x, y, 0.3)
  if place in nn.ATTENDS:
    heads, (b, _, height, width) = out // 4, x.shape
    y = mp_conv(w, f'{name}.attn_qkv', x, 3 * out, 1)
    y = normalized(y.reshape(b, heads, -1, 3, height * width), 2)
    q, k, v = y[:, :, :, 0], y[:, :, :, 1], y[:, :, :, 2]
    scores = np.einsum('nhcq,nhck->nhqk', q, k) / np.sqrt(q.shape[2])
    y = np.einsum('nhqk,nhck->nhcq', nn.softmax(scores), v).reshape(x.shape)
    x = mp_sum(x, mp_conv(w, f'{name}.attn_proj', y, out, 1), 0.3)
  return np.clip(x, -256, 256)


def unet(w, x, noise, label):
  """Two levels of 8 and 16 channels, attention in the second."""
  emb = mp_conv(w, 'unet.emb_noise', mp_fourier(w, 'unet.emb_fourier', noise, 8), 16)
  emb = mp_sum(emb, mp_conv(w, 'unet.emb_label', np.sqrt(3.0) * np.eye(3)[label], 16), 0.5)
  emb = mp_silu(emb)
  h = np.concatenate([x, np.ones_like(x[:, :1])], 1)
  h = mp_conv(w, 'unet.enc.8x8_conv', h, 8, 3)
  at = lambda place, h, n: block(w, place, h, emb, 8 * n)
  h = nn.unet(h, at, mp_cat)
  return mp_conv(w, 'unet.out_conv', h, 3, 3, gain=w.get('unet.out_gain'))


def precond(w, x, sigma, label):
  """Returns D(x; sigma) and u(sigma), sigma_data 0.5."""
  s = sigma[:, None, None, None]
  c_skip, norm = 0.25 / (s**2 + 0.25), np.sqrt(s**2 + 0.25)
  noise = np.log(sigma) / 4
  out = c_skip * x + s * 0.5 / norm * unet(w, x / norm, noise, label)
  return out, mp_conv(w, 'logvar_linear', mp_fourier(w, 'logvar_fourier', noise, 6), 1)[:, 0]


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '47, 75, 81, 88, 103: weights, Fourier features, SiLU, sums, concatenations',
)
@transcribes(
  'EDM2 (Karras et al. 2024)',
  'figure 21: both blocks; the network',
  '`networks.edm2.EDM2`',
)
def test_the_network_computes_what_theirs_does(tmp_path):
  """The weights have any length, as averages do."""
  w, rng = nn.Weights(), np.random.default_rng(1)
  x, label = rng.normal(size=(2, 3, 8, 8)), np.array([2, 0])
  expected, u = precond(w, x, SIGMA, label)
  found = edm2.load(nn.store(tmp_path, w, OPTIONS))
  network_fn = lambda p, *inputs, key=None: found.network.apply({'params': p}, *inputs)

  @jax.jit
  def denoise(params, x, level):
    network = dj.Network(network_fn, dj.edm_input, parametrization='edm')
    return network.denoiser(params, {'label': label})(x, level).x0

  level = dj.NoiseLevel(np.zeros(2), np.ones(2), SIGMA)
  ours = denoise(found.params, x.transpose(0, 2, 3, 1), level)
  nn.assert_close(np.asarray(ours).transpose(0, 3, 1, 2), expected)
  ours = jax.jit(Uncertainty(6).apply)({'params': found.more['uncertainty']}, np.log(SIGMA) / 4)
  nn.assert_close(np.asarray(ours), u)
