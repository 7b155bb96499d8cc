"""Weights of improved- and guided-diffusion compute what a float64 transcription does."""

import numpy as np
import pytest

from diffusion_jax.interop import openai
from diffusion_jax.interop.options import of_text
from tests.interop import literal as nn
from tests.transcribed import transcribes

EPS = 1e-5  # recipes 3.1: torch's default, 32 groups
NOISE = np.array([3.0, 700.25])
FLAGS = 'image_size=8 num_channels=32 num_res_blocks=1 channel_mult=1,2 attention_resolutions=4 '
TINY = of_text(FLAGS)
GUIDED = TINY | of_text("""
  large_size=8 small_size=4 class_cond=True learn_sigma=True resblock_updown=True
  num_head_channels=32 use_new_attention_order=True
""")


def norm(w, name, x):
  return nn.group_norm(w, name, x, 32, EPS)


def residual(w, name, x, emb, out, scale_shift, resample=None):
  """recipes 3.1, ResBlock."""
  h = nn.silu(norm(w, f'{name}.in_layers.0', x))
  h, x = (resample(h), resample(x)) if resample else (h, x)
  h = nn.conv(w, f'{name}.in_layers.2', h, out)
  e = nn.linear(w, f'{name}.emb_layers.1', nn.silu(emb), out * (1 + scale_shift))
  e = e[:, :, None, None]
  if scale_shift:
    scale, shift = e[:, :out], e[:, out:]
    h = norm(w, f'{name}.out_layers.0', h) * (1.0 + scale) + shift
  else:
    h = norm(w, f'{name}.out_layers.0', h + e)
  h = nn.conv(w, f'{name}.out_layers.3', nn.silu(h), out)
  if x.shape[1] != out:
    x = nn.conv(w, f'{name}.skip_connection', x, out, size=1)
  return x + h


def heads_of(qkv, heads, new):
  """Yields q, k, v of each head, [C / heads, T], of one image's [3C, T]."""
  ch = len(qkv) // (3 * heads)
  for head in range(heads):
    if new:  # all queries, all keys, all values; heads inside each
      starts = [i * heads * ch + head * ch for i in range(3)]
    else:  # head by head; q, k, v inside each
      starts = [head * 3 * ch + i * ch for i in range(3)]
    yield [qkv[s : s + ch] for s in starts]


def attention(w, name, x, heads, new):
  """recipes 3.1, AttentionBlock, in both orders of q, k, v."""
  b, c, height, width = x.shape
  flat = x.reshape(b, c, -1)
  qkv = nn.conv1d(w, f'{name}.qkv', norm(w, f'{name}.norm', flat), 3 * c)
  h = nn.attention(qkv, lambda image: heads_of(image, heads, new))
  return (flat + nn.conv1d(w, f'{name}.proj_out', h, c)).reshape(x.shape)


def embedding(w, noise, channels, label=None):
  sin, cos = nn.sinusoid(noise, channels, last=channels // 2)
  e = np.concatenate([cos, sin], axis=1)
  e = nn.linear(w, 'time_embed.0', e, 4 * channels)
  e = nn.linear(w, 'time_embed.2', nn.silu(e), 4 * channels)
  if label is not None:
    e = e + w.get('label_emb.weight', 7, 4 * channels)[label]
  return e


# Their name of each place; its attention ends in 1.
NAMES = {
  'enc.8x8_block0': 'input_blocks.1.0',
  'enc.4x4_down': 'input_blocks.2.0',
  'enc.4x4_block0': 'input_blocks.3.0',
  'dec.4x4_in0': 'middle_block.0',
  'dec.4x4_in1': 'middle_block.2',
  'dec.4x4_block0': 'output_blocks.0.0',
  'dec.4x4_block1': 'output_blocks.1.0',
  'dec.8x8_up': 'output_blocks.1.2',
  'dec.8x8_block0': 'output_blocks.2.0',
  'dec.8x8_block1': 'output_blocks.3.0',
}


def unet(w, x, noise, f, out=3, label=None):
  """recipes 3.1: two levels, one block each, attention at the second."""
  emb = embedding(w, noise, 32, label)

  def block(place, h, n):
    name, resample = NAMES[place], nn.MEANS.get(place)
    if resample == nn.pooled and not f['updown']:
      return nn.conv(w, f'{name}.op', h, 32, stride=2)
    if resample == nn.nearest and not f['updown']:
      return nn.conv(w, f'{name}.conv', nn.nearest(h), 64)
    h = residual(w, name, h, emb, 32 * n, scale_shift=f['scale_shift'], resample=resample)
    if place not in nn.ATTENDS:
      return h
    return attention(w, f'{name[:-1]}1', h, f['heads'], f['new'])

  h = nn.unet(nn.conv(w, 'input_blocks.0.0', x, 32), block)
  return nn.conv(w, 'out.2', nn.silu(norm(w, 'out.0', h)), out)


def test_improved_diffusions_network():
  """Added embedding, convolutions between levels, four heads, legacy order."""
  w, x = nn.Weights(), nn.images(8)
  expected = unet(w, x, NOISE, dict(scale_shift=False, updown=False, heads=4, new=False))
  found = openai.from_tensors(w.file(), 'improved', **TINY | dict(use_scale_shift_norm=False))
  nn.assert_close(nn.apply(found, x, NOISE), expected)


def bilinear(x, factor):
  """Linear interpolation between the centres of the pixels, edges repeated."""
  n = x.shape[-1]
  at = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
  low = np.minimum(at.astype(int), n - 2)
  line = np.zeros((n * factor, n))
  line[np.arange(n * factor), low] = 1.0 - (at - low)
  line[np.arange(n * factor), low + 1] = at - low
  return line @ x @ line.T


def test_guided_diffusions_network_that_enlarges():
  """Labels, six outputs, the new order, residual blocks between levels."""
  w, x, small = nn.Weights(1), nn.images(8), nn.images(4, seed=2)
  label, both = np.array([6, 0]), np.concatenate([x, bilinear(small, 2)], 1)
  f = dict(scale_shift=True, updown=True, heads=2, new=True)
  expected = unet(w, both, NOISE, f, out=6, label=label)
  found = openai.from_tensors(w.file(), 'guided', **GUIDED)
  image = openai.enlarge(np.float32(small.transpose(0, 2, 3, 1)), 8)
  cond = {'label': label, 'image': np.asarray(image).transpose(0, 3, 1, 2)}
  nn.assert_close(nn.apply(found, x, NOISE, cond), expected)
  assert found.facts['num_classes'] == 7
  conditioning = found.sections['conditioning']
  assert conditioning['labels'] is True
  assert conditioning['image'] == {'name': 'superres', 'factor': 2}
  assert 'bilinear' in found.notes[0]
  assert found.sections['sampling']['sampler'] == {'name': 'ancestral', 'variance': 'learned'}


@transcribes(
  'Classifier guidance (Dhariwal & Nichol 2021)',
  'its network',
  '`networks.unet.NoisyClassifier`',
)
def test_the_noisy_classifier():
  """recipes 3.4, with the narrow stem of 512x512 and heads of 64 channels."""
  w, x = nn.Weights(3), nn.images(8)
  emb = embedding(w, NOISE, 64)
  block = lambda name, x, out, resample=None: residual(
    w, name, x, emb, out, scale_shift=True, resample=resample
  )
  h = nn.conv(w, 'input_blocks.0.0', x, 32)
  h = block('input_blocks.1.0', h, 32)
  h = block('input_blocks.2.0', h, 32, nn.pooled)
  h = block('input_blocks.3.0', h, 128)
  h = attention(w, 'input_blocks.3.1', h, 2, new=False)
  h = block('middle_block.0', h, 128)
  h = attention(w, 'middle_block.1', h, 2, new=False)
  h = nn.silu(norm(w, 'out.0', block('middle_block.2', h, 128)))
  tokens = h.reshape(2, 128, 16)
  tokens = np.concatenate([tokens.mean(axis=2, keepdims=True), tokens], axis=2)
  tokens = tokens + w.get('out.2.positional_embedding', 128, 17)
  qkv = nn.conv1d(w, 'out.2.qkv_proj', tokens, 3 * 128)
  h = nn.attention(qkv, lambda image: heads_of(image, 2, True))
  expected = nn.conv1d(w, 'out.2.c_proj', h, 5)[:, :, 0]
  flags = of_text("""
    image_size=8 classifier_width=64 classifier_depth=1 channel_mult=0.5,2
    classifier_attention_resolutions=4
  """)
  found = openai.from_tensors(w.file(), 'classifier', **flags)
  nn.assert_close(nn.apply(found, x, NOISE), expected)
  assert found.facts['num_classes'] == 5
  assert found.sections['objective'] == {'name': 'classifier'}


def make(model, known=1000, **flags):
  """Returns a model with `known` classes, if it has classes."""
  chosen = openai.choose_flags(model, **flags)
  return openai.describe(chosen, known if chosen.class_cond or chosen.classifier else 0)


def test_the_steps_are_those_of_the_projects():
  """recipes 3.2: improved-diffusion rescales steps, unlike guided-diffusion."""
  improved = make('cifar10_uncond_50M_500K').sections
  assert improved['noise_input'] == {'name': 'rescaled_step'}
  assert improved['schedule'] == {'name': 'cosine', 'num_steps': 4000}
  assert improved['objective'] == {'name': 'hybrid', 'vlb_weight': 0.001}
  upsampler = make('upsample_cond_500K').sections
  assert upsampler['noise_input'] == {'name': 'step'}
  assert upsampler['schedule'] == {'name': 'rescaled_linear', 'num_steps': 4000}
  assert upsampler['objective'] == {'name': 'hybrid', 'vlb_weight': 1 / 4000}
  guided = make('128x128_diffusion').sections
  assert guided['schedule'] == {'name': 'linear', 'num_steps': 1000}
  assert guided['network']['num_heads'] == 4
  assert guided['network']['qkv'] == 'legacy'
  assert make('64x64_diffusion').sections['network']['qkv'] == 'new'


def test_an_unknown_model_lists_the_known_ones(tmp_path):
  path = tmp_path / 'mine.npz'
  np.savez(path, x=np.zeros(1))
  with pytest.raises(ValueError, match="'mine' is not one of cifar10_uncond"):
    openai.load(path)
