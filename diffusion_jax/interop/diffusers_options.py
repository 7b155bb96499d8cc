"""What the readers of diffusers' config.json share: options, sizes, layers."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from diffusion_jax.interop import options
from diffusion_jax.interop.layers import TORCH, Layer, resnet_block
from diffusion_jax.interop.options import Allowed

SILU = 'silu', 'swish'
BLOCK = resnet_block(
  TORCH, 'norm1', 'conv1', 'time_emb_proj', 'norm2', 'conv2', 'conv_shortcut'
)
ATTENTION = (
  Layer('norm', 'group_norm', TORCH.norm),
  Layer('query', 'to_q', TORCH.linear),
  Layer('key', 'to_k', TORCH.linear),
  Layer('value', 'to_v', TORCH.linear),
  Layer('proj_out', 'to_out.0', TORCH.linear),
)
# attention of files of diffusers before 0.12
_LEGACY = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}


class Same(NamedTuple):
  """An option that is a field of ours; values: {theirs: ours}, {} if equal."""

  theirs: str
  ours: str
  values: Mapping[Any, Any] = {}


def complete(
  name: str,
  config: Mapping[str, Any],
  defaults: Mapping[str, Any],
  same: Sequence[Same] = (),
  allowed: Callable[[SimpleNamespace], Allowed] = lambda options: {},
) -> SimpleNamespace:
  """Returns the options of a class with its defaults.

  Raises ValueError for an unknown option that is set, and for values that
  neither `same` nor `allowed` has.
  """
  given = {
    option: value
    for option, value in config.items()
    if not option.startswith('_') and (option in defaults or value is not None)
  }
  options.check_known(name, defaults, given)
  c = SimpleNamespace(**{**defaults, **given})
  known = {row.theirs: tuple(row.values) for row in same if row.values}
  options.check(name, vars(c), {**known, **allowed(c)})
  return c


def to_ours(c: SimpleNamespace, same: Sequence[Same]) -> dict[str, Any]:
  """Returns the fields of ours that the options are."""
  fields = {}
  for row in same:
    value = getattr(c, row.theirs)
    fields[row.ours] = row.values[value] if row.values else value
  return fields


def to_theirs(network: Any, same: Sequence[Same]) -> dict[str, Any]:
  """Returns the options that fields of a network are."""
  given = {}
  for row in same:
    value = getattr(network, row.ours)
    back = {ours: theirs for theirs, ours in row.values.items()}
    given[row.theirs] = back.get(value) if row.values else value
  return given


def multipliers(widths: Sequence[int]) -> tuple[float, ...]:
  """Returns the multipliers m with int(widths[0] m) = width."""
  found = []
  for width in widths:
    m = width / widths[0]
    if int(widths[0] * m) != width:  # rounded down
      m = (width + 0.5) / widths[0]
    found.append(int(m) if m == int(m) else m)
  return tuple(found)


def sides(size: Any, name: str) -> tuple[int, int]:
  """Returns (height, width) of a sample_size; ValueError for None."""
  if isinstance(size, int) and size > 0:
    return size, size
  if isinstance(size, list | tuple) and len(size) == 2:
    return int(size[0]), int(size[1])
  raise ValueError(
    f'{name}: sample_size={size!r} does not say the size of the images, which '
    'our network depends on: write it into config.json'
  )


def wrong_blocks(
  kinds: Sequence[str], known: Sequence[str], widths: Sequence[int]
) -> str:
  """Returns why a list of block types has no counterpart; '' if it has one."""
  if set(kinds) - set(known):
    return f'the types can be {", ".join(known)}'
  if len(kinds) != len(widths):
    return f'it has {len(kinds)} blocks, block_out_channels {len(widths)}'
  return ''


def sample_size(height: int, width: int) -> Any:
  """Returns the option of which `sides` is the inverse."""
  return height if height == width else [height, width]


def modern(name: str) -> str:
  """Returns the name of a tensor in present versions of diffusers."""
  head, _, part = name.rpartition('.')
  stem, _, layer = head.rpartition('.')
  if '.attentions.' in name and layer in _LEGACY:
    return f'{stem}.{_LEGACY[layer]}.{part}'
  return name
