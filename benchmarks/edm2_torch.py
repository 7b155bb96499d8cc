"""EDM2's network (Karras et al. 2024, config G) as a module of torch.

It is written from the paper. Its state dict has the names of EDM2's release,
without the prefix 'unet.'.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def _normalize(x, *dims):
  # Returns x / (1e-4 + root mean square over dims).
  norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float)
  count = x.numel() // norm.numel()
  return x / (1e-4 + norm / math.sqrt(count)).to(x.dtype)


def _mp_silu(x):
  return F.silu(x) / 0.596


def _mp_sum(a, b, t):
  h = math.hypot(1.0 - t, t)
  return torch.add(a * ((1.0 - t) / h), b, alpha=t / h)


def _mp_cat(a, b):
  half = (a.shape[1] + b.shape[1]) / 2
  return torch.cat([x * math.sqrt(half / x.shape[1]) for x in (a, b)], dim=1)


class _MPConv(nn.Module):
  # A linear map, or a convolution, with rows of norm `gain`. In training the
  # parameter itself is normalised first (forced weight normalisation).

  def __init__(self, inputs, outputs, *window):
    super().__init__()
    self.weight = nn.Parameter(torch.randn(outputs, inputs, *window))

  def forward(self, x, gain=1.0):
    weight = self.weight.float()
    dims = range(1, weight.ndim)
    if self.training:
      with torch.no_grad():
        self.weight.copy_(_normalize(weight, *dims))
    scale = gain / math.sqrt(weight[0].numel())
    weight = (_normalize(weight, *dims) * scale).to(x.dtype)
    if weight.ndim == 2:
      return F.linear(x, weight)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class _MPFourier(nn.Module):
  def __init__(self, features):
    super().__init__()
    self.register_buffer('freqs', 2 * math.pi * torch.randn(features))
    self.register_buffer('phases', 2 * math.pi * torch.rand(features))

  def forward(self, noise):
    angles = torch.outer(noise, self.freqs.float()) + self.phases
    return math.sqrt(2.0) * angles.cos()


class _Block(nn.Module):
  def __init__(self, inputs, outputs, emb, decoder, heads, resample, dropout):
    super().__init__()
    self.decoder, self.heads = decoder, heads
    self.resample, self.dropout = resample, dropout
    self.emb_gain = nn.Parameter(torch.zeros(()))
    self.conv_res0 = _MPConv(inputs if decoder else outputs, outputs, 3, 3)
    self.emb_linear = _MPConv(emb, outputs)
    self.conv_res1 = _MPConv(outputs, outputs, 3, 3)
    same = inputs == outputs
    self.conv_skip = None if same else _MPConv(inputs, outputs, 1, 1)
    if heads:
      self.attn_qkv = _MPConv(outputs, 3 * outputs, 1, 1)
      self.attn_proj = _MPConv(outputs, outputs, 1, 1)

  def forward(self, x, emb):
    x = self.resample(x) if self.resample else x
    skip = x if self.conv_skip is None else self.conv_skip(x)
    if not self.decoder:
      x = skip = _normalize(skip, 1)
    scale = 1.0 + self.emb_linear(emb, self.emb_gain)
    h = _mp_silu(self.conv_res0(_mp_silu(x)) * scale[:, :, None, None])
    h = F.dropout(h, self.dropout, self.training)
    x = _mp_sum(skip, self.conv_res1(h), 0.3)
    if self.heads:
      x = _mp_sum(x, self._attend(x), 0.3)
    return x.clamp(-256.0, 256.0)

  def _attend(self, x):
    batch, channels, height, width = x.shape
    h = self.attn_qkv(x).permute(0, 2, 3, 1)  # [heads, channels, q k v]
    h = h.reshape(batch, height * width, self.heads, -1, 3)
    q, k, v = _normalize(h, 3).permute(4, 0, 2, 1, 3).contiguous()
    h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    h = h.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return self.attn_proj(h)


class UNet(nn.Module):
  """The U-Net of a dict of options, keywords of EDM2's release."""

  def __init__(self, options):
    super().__init__()
    o = SimpleNamespace(**options)
    widths = [int(o.model_channels * m) for m in o.channel_mult]
    self.classes, self.checkpointing = o.label_dim, False
    emb, width = max(widths), widths[0]
    self.emb_fourier = _MPFourier(width)
    self.emb_noise = _MPConv(width, emb)
    self.emb_label = _MPConv(self.classes, emb) if self.classes else None

    def block(inputs, outputs, attend, decoder=False, resample=None):
      heads = outputs // o.channels_per_head if attend else 0
      return _Block(
        inputs, outputs, emb, decoder=decoder, heads=heads, resample=resample, dropout=o.dropout
      )

    # A channel of ones takes the place of biases.
    name = f'{o.img_resolution}x{o.img_resolution}_conv'
    self.enc = nn.ModuleDict({name: _MPConv(o.img_channels + 1, width, 3, 3)})
    half, twice = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
    skips, levels = [width], []
    for level, outputs in enumerate(widths):
      side = o.img_resolution >> level
      name, attend = f'{side}x{side}', side in o.attn_resolutions
      levels.append((name, attend, outputs))
      if level:
        self.enc[f'{name}_down'] = block(width, width, False, False, half)
        skips.append(width)
      for i in range(o.num_blocks):
        self.enc[f'{name}_block{i}'] = block(width, outputs, attend)
        width = outputs
        skips.append(width)
    self.dec = nn.ModuleDict()
    for name, attend, outputs in reversed(levels):
      if self.dec:
        self.dec[f'{name}_up'] = block(width, width, False, True, twice)
      else:
        self.dec[f'{name}_in0'] = block(width, width, True, True)
        self.dec[f'{name}_in1'] = block(width, width, False, True)
      for i in range(o.num_blocks + 1):
        inputs = width + skips.pop()
        self.dec[f'{name}_block{i}'] = block(inputs, outputs, attend, True)
        width = outputs
    self.out_conv = _MPConv(width, o.img_channels, 3, 3)
    self.out_gain = nn.Parameter(torch.zeros(()))

  def enable_gradient_checkpointing(self):
    """Computes the blocks again in the backward pass."""
    self.checkpointing = True

  def forward(self, x, noise, labels=None):
    """Returns [B, C, H, W] of x of magnitude 1, ln(sigma) / 4 and classes."""
    emb = self.emb_noise(self.emb_fourier(noise).to(x.dtype))
    if self.emb_label is not None:
      one_hot = F.one_hot(labels, self.classes) * math.sqrt(self.classes)
      emb = _mp_sum(emb, self.emb_label(one_hot.to(x.dtype)), 0.5)
    emb = _mp_silu(emb)

    def apply(block, x):
      if self.checkpointing:
        return checkpoint(block, x, emb, use_reentrant=False)
      return block(x, emb)

    conv_in, *encoder = self.enc.values()
    skips = [conv_in(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))]
    for block in encoder:
      skips.append(apply(block, skips[-1]))
    x = skips[-1]
    for name, block in self.dec.items():
      x = apply(block, _mp_cat(x, skips.pop()) if 'block' in name else x)
    return self.out_conv(x, self.out_gain)
