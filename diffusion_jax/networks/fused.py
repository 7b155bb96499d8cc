"""Kernels that are several matrices side by side, for optimizers that treat matrices."""

from typing import NamedTuple

from diffusion_jax.aliases import Fused
from diffusion_jax.networks.options import QKV


class Layout(NamedTuple):
  """Says how the outputs of a kernel [..., in, out] belong to its matrices.

  sizes: of the axes into which `out` is reshaped, of which one may be -1;
  axis: the one of them that counts the matrices.
  """

  sizes: tuple[int, ...]
  axis: int = 0


QKV_LAYOUT = Layout((3, -1))


def pieces(width: int) -> Layout:
  """Returns the layout of matrices of `width` outputs, one after the other."""
  return Layout((-1, width))


def qkv_layout(kind: QKV, num_heads: int, head_channels: int | None) -> Layout:
  """Returns the layout of the projection to queries, keys and values of an `Attention`."""
  if kind == 'interleaved':
    return Layout((-1, 3), 1)
  if kind == 'legacy':
    heads = (num_heads, 3, -1) if head_channels is None else (-1, 3, head_channels)
    return Layout(heads, 1)
  return QKV_LAYOUT


def of_unet(
  qkv: QKV, num_heads: int, head_channels: int | None, scale_shift: bool = False
) -> Fused:
  """Returns the layouts of a U-Net's layers: of attention, texts, and scales with shifts."""
  layouts = {
    '_qkv': QKV_LAYOUT,  # of `TextEncoder`
    'pool/qkv': QKV_LAYOUT,  # of `AttentionPool`
    'qkv': qkv_layout(qkv, num_heads, head_channels),
  }
  return layouts | ({'embedding_proj': Layout((2, -1))} if scale_shift else {})
