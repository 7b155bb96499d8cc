"""Types of the options of networks, checks of their values, and `remat`.

The type of a field says which values it may have: a `Literal` lists its words,
and an `Annotated` number has a `Rule` of `ranges`. Modules that derive from
`Checked` raise ValueError at construction for any other value.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.declared import Use
from diffusion_jax.ranges import Positive, Rule, check_value

Array = jax.Array
AnyBlock = TypeVar('AnyBlock', bound=type[nn.Module])

Multipliers = Annotated[Sequence[Positive], Rule('one or more numbers', bool)]

AttentionImplementation = Annotated[Literal['auto', 'xla', 'cudnn'], Use.COMPUTING]
DownsamplePadding = Literal['same', 'symmetric']
Dtype = Annotated[Literal['float32', 'bfloat16'] | DTypeLike, Use.COMPUTING]
Initialization = Literal['ho', 'torch', 'lecun']
MiddleAttention = Literal['norm', 'plain', 'none']
QKV = Literal['separate', 'legacy', 'new', 'interleaved']
RematPolicy = Literal['nothing', 'products']
Sinusoids = Literal['ho', 'openai']

# Entries of cond that come with others.
FOLLOWING = 'drop', 'text_mask', 'context_code'
HALF = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)


class Checked(nn.Module):
  """A module whose fields are checked when it is constructed, or its parameters are made.

  Flax makes copies of modules to apply them, which are not checked again.
  takes: the entries of cond that the field `inputs` of a network may have.
  fused: the layers whose kernels are several matrices (`fused.Fused`).
  stacked: with which letters the names of modules begin whose parameters are those
  of several blocks, along a first axis.
  """

  takes: ClassVar[tuple[str, ...]] = ()
  stacked: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    super().__post_init__()
    if self.scope is None or self.is_initializing():
      check_fields(self)

  @property
  def fused(self) -> Mapping[str, Any]:
    return {}

  @property
  def style(self) -> dict[str, Any]:
    """The initializer and the dtype, options of most layers."""
    given = vars(self)
    return {name: given[name] for name in ('initializer', 'dtype')}


def check_fields(module: Any) -> None:
  """Raises ValueError for a field whose value its type does not allow.

  The combinations of remat_policy and remat, of attention and dtype, and of
  inputs and `Checked.takes` are checked too.
  """
  for field in dataclasses.fields(module):
    check_value(field.name, getattr(module, field.name), field.type)
  given = vars(module)
  if given.get('remat_policy', 'nothing') != 'nothing' and not given['remat']:
    raise ValueError('remat_policy has no effect without remat=True')
  cudnn = given.get('attention') == 'cudnn'
  if cudnn and jnp.dtype(given['dtype']) not in HALF:
    raise ValueError("attention='cudnn' needs dtype bfloat16 or float16; 'xla' takes any")
  inputs = given.get('inputs')
  names = [] if inputs is None else inputs.names
  others = [n for n in names if n not in (*module.takes, *FOLLOWING)]
  if others:
    raise ValueError(
      f'{type(module).__name__} has no input {others[0]}: it takes {", ".join(module.takes)}'
    )


def has_size(*sizes: Any) -> bool:
  """Returns whether sizes are numbers: a batch of `jax.export` may be a symbol without one."""
  return all(isinstance(size, int) for size in sizes)


def check_rank(x: Array, ranks: Sequence[int]) -> None:
  """Raises ValueError unless the number of x's spatial axes is in `ranks`."""
  found = x.ndim - 2
  if found not in ranks:
    raise ValueError(
      f'examples of the shape {list(x.shape[1:])} have {found} axes before the '
      f'channels, and the network needs {" or ".join(map(str, ranks))}: use '
      f'network {"unet or dit" if 1 <= found <= 3 else "mlp"}'
    )


def check_block(at: int | None, num_blocks: int) -> None:
  """Raises ValueError unless `at` is one of the blocks 0..num_blocks - 1, or None."""
  if at is not None and not 0 <= at < num_blocks:
    raise ValueError(f'at={at} is not a block: the network has {num_blocks}, counted from 0')


def check_sides(x: Array, num_levels: int, ranks: Sequence[int] = (2,)) -> None:
  """Raises ValueError if [B, ..., C] cannot be halved between levels.

  The number of its spatial axes must be in `ranks` (`check_rank`).
  """
  check_rank(x, ranks)
  sides = x.shape[1:-1]
  factor = 2 ** (num_levels - 1)
  if any(side % factor for side in sides):
    raise ValueError(
      f'sides of {"x".join(map(str, sides))} cannot be halved {num_levels - 1} '
      f'times: sides must be multiples of {factor}, or multipliers must be '
      'shorter'
    )


def attention_size(sides: Sequence[int]) -> int:
  """Returns the number that `attention_resolutions` compares of feature maps.

  It is the height of images, and the number of positions of sequences and
  volumes, whose sides are given.
  """
  return sides[0] if len(sides) == 2 else math.prod(sides)


def count_groups(num_groups: int, channels: int, width: int) -> int:
  """Returns num_groups, or fewer, so that groups have >= `width` channels."""
  return min(num_groups, channels // width)


def check_divides(name: str, value: int, channels: int, hint: str) -> None:
  """Raises ValueError unless an option divides the channels of a layer."""
  if value < 1 or channels % value:
    raise ValueError(f'{name}={value} does not divide the {channels} channels of {hint}')


def count_heads(num_heads: int, head_channels: int | None, channels: int) -> int:
  """Returns the number of heads: num_heads, or channels / head_channels.

  Raises ValueError if the heads do not divide the channels.
  """
  name, value = 'num_heads', num_heads
  if head_channels is not None:
    name, value = 'head_channels', head_channels
  hint = f'an attention layer: change {name} or the width of that level'
  check_divides(name, value, channels, hint)
  return num_heads if head_channels is None else channels // head_channels


def _products(primitive, *args, **params):
  # Stores the results of convolutions and products with weights. The products
  # of attention have batch axes and are recomputed, because scores are large.
  with_weights = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return primitive.name in ('conv2d', 'convolve', 'linear') or with_weights(
    primitive, *args, **params
  )


POLICIES: dict[RematPolicy, Callable[..., bool] | None] = {'nothing': None, 'products': _products}


def maybe_remat(block: AnyBlock, network: Any, **options: Any) -> AnyBlock:
  """Returns the block, which the backward pass recomputes with network.remat.

  Only its inputs are stored. With network.remat_policy 'products' the results
  of convolutions and products with weights are stored too. The block's results
  do not change. options: further arguments of `nn.remat`.
  """
  if not getattr(network, 'remat', False):
    return block
  return nn.remat(block, policy=POLICIES[network.remat_policy], **options)
