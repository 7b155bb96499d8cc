"""Options, sizes and layers that several classes of diffusers share."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

from diffusion_jax.interop import options
from diffusion_jax.interop.names import layers, require, resnet_block
from diffusion_jax.interop.options import Allowed, OptionFields, Options

SILU = 'silu', 'swish'
# Inputs of our networks that the networks of diffusers do not have.
NO_INPUTS = dict(
  text=(None,),
  image_channels=(0,),
  self_conditioning=(False,),
  elapsed=(False,),
  guidance_scale=(False,),
)
BLOCK = resnet_block('norm1 conv1 time_emb_proj norm2 conv2 conv_shortcut')
ATTENTION = layers('norm query key value proj_out', 'group_norm to_q to_k to_v to_out.0')
# names of attention layers before diffusers 0.12
_LEGACY = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def complete(
  name: str,
  config: Options,
  defaults: Options,
  fields: OptionFields,
  allowed: Callable[[SimpleNamespace], Allowed],
) -> SimpleNamespace:
  """Returns the options of a class with its defaults, as `options.complete`.

  An unknown option of None counts as absent.
  """
  given = {
    option: value
    for option, value in config.items()
    if not option.startswith('_') and (option in defaults or value is not None)
  }
  return options.complete(name, defaults, given, allowed, fields)


def multipliers(widths: Sequence[int]) -> tuple[float, ...]:
  """Returns the multipliers m with int(widths[0] m) = width."""
  numbers = []
  for width in widths:
    m = width / widths[0]
    if int(widths[0] * m) != width:  # rounded down
      m = (width + 0.5) / widths[0]
    numbers.append(int(m) if m == int(m) else m)
  return tuple(numbers)


def sides(size: int | Sequence[int] | None, name: str) -> tuple[int, int]:
  """Returns (height, width) of a sample_size; ValueError for None."""
  both = size if isinstance(size, Sequence) else (size or 0,) * 2
  require(
    len(both) == 2 and min(both) > 0,
    f'{name}: sample_size={size!r} must be the size of the images, which our '
    'network depends on: write it into config.json',
  )
  return both[0], both[1]


def wrong_blocks(kinds: Sequence[str], known: Sequence[str], widths: Sequence[int]) -> str:
  """Returns why a list of block types does not have a counterpart, or ''."""
  if set(kinds) - set(known):
    return f'the types can be {", ".join(known)}'
  if len(kinds) != len(widths):
    return f'it has {len(kinds)} blocks, and block_out_channels {len(widths)}'
  return ''


def sample_size(height: int, width: int) -> int | list[int]:
  """Returns the option sample_size, the inverse of `sides`."""
  return height if height == width else [height, width]


def modern(name: str) -> str:
  """Returns the name of a tensor in present versions of diffusers."""
  head, _, part = name.rpartition('.')
  stem, _, layer = head.rpartition('.')
  if '.attentions.' in name and layer in _LEGACY:
    return f'{stem}.{_LEGACY[layer]}.{part}'
  return name
