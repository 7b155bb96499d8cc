"""Types of the options of networks, and checks of their values.

The type of a field says which values it may have: a `Literal` lists its words,
and an `Annotated` number has a `Rule`. Modules that derive from `Checked` raise
ValueError at construction for any other value.
"""

import dataclasses
import math
import numbers
import types
from collections.abc import Callable, Sequence
from typing import (
  Annotated,
  Any,
  Literal,
  NamedTuple,
  Union,
  get_args,
  get_origin,
)

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

Array = jax.Array


class Rule(NamedTuple):
  """A condition on the value of a field, in words and as a function."""

  text: str  # completes 'must be ...'
  holds: Callable[[Any], bool]


def at_least(low: int) -> Rule:
  """Returns the rule of integers that are `low` or more."""

  def holds(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= low

  return Rule(f'an integer of at least {low}', holds)


def _number(text: str, holds: Callable[[float], bool]) -> Rule:
  return Rule(text, lambda x: isinstance(x, numbers.Real) and holds(float(x)))


_above_0 = _number('a number above 0', lambda x: 0 < x < math.inf)
_from_0_to_1 = _number('a number in [0, 1)', lambda x: 0 <= x < 1)

Size = Annotated[int, at_least(1)]
Count = Annotated[int, at_least(0)]
Positive = Annotated[float, _above_0]
Rate = Annotated[float, _from_0_to_1]
Multipliers = Annotated[Sequence[Positive], Rule('one or more numbers', bool)]

AttentionImplementation = Literal['xla', 'cudnn']
DownsamplePadding = Literal['same', 'symmetric']
Dtype = Literal['float32', 'bfloat16'] | DTypeLike
Initialization = Literal['ho', 'torch', 'lecun']
MiddleAttention = Literal['norm', 'plain', 'none']
QKV = Literal['separate', 'legacy', 'new', 'interleaved']
RematPolicy = Literal['nothing', 'products']
Sinusoids = Literal['ho', 'openai']


class Checked(nn.Module):
  """A module whose fields are checked when it is constructed."""

  def __post_init__(self):
    super().__post_init__()
    check_fields(self)


def check_fields(module: nn.Module) -> None:
  """Raises ValueError for a field whose value its type does not allow.

  The combinations of remat_policy and remat, and of attention and dtype, are
  checked too.
  """
  for field in dataclasses.fields(module):
    check_value(field.name, getattr(module, field.name), field.type)
  given: Any = vars(module)
  if given.get('remat_policy', 'nothing') != 'nothing' and not given['remat']:
    raise ValueError('remat_policy has no effect without remat=True')
  cudnn = given.get('attention') == 'cudnn'
  if cudnn and jnp.dtype(given['dtype']) != jnp.bfloat16:
    raise ValueError("attention='cudnn' needs dtype bfloat16; 'xla' takes any")


def check_value(name: str, value: Any, kind: Any) -> None:
  """Raises ValueError if the type does not allow the value.

  Types other than `Literal`, `Annotated` with a `Rule`, and unions and
  sequences of these allow everything. A `Literal` in a union applies to strings
  only, None is allowed by each union.
  """
  origin, args = get_origin(kind), get_args(kind)
  if origin is Literal:
    if value not in args:
      raise ValueError(f'{name} {value!r} is not one of {", ".join(args)}')
  elif origin is Annotated:
    inner, rule = args
    check_value(name, value, inner)
    if not rule.holds(value):
      raise ValueError(f'{name} must be {rule.text}, not {value!r}')
  elif origin in (Union, types.UnionType):
    for member in args if value is not None else ():
      if get_origin(member) is not Literal or isinstance(value, str):
        check_value(name, value, member)
  elif origin in (tuple, Sequence):
    kinds = args if origin is tuple else args * len(value)
    if len(value) != len(kinds):
      raise ValueError(f'{name} must be {len(kinds)} numbers, not {value!r}')
    for i, (element, kind) in enumerate(zip(value, kinds, strict=True)):
      check_value(f'{name}[{i}]', element, kind)


def check_sides(x: Array, num_levels: int) -> None:
  """Raises ValueError if [B, H, W, C] cannot be halved between levels."""
  factor = 2 ** (num_levels - 1)
  if x.shape[1] % factor or x.shape[2] % factor:
    raise ValueError(
      f'images of {x.shape[1]}x{x.shape[2]} cannot be halved '
      f'{num_levels - 1} times: sides must be multiples of {factor}, or '
      'multipliers must be shorter'
    )


def count_groups(num_groups: int, channels: int, width: int) -> int:
  """Returns num_groups, or fewer, so that groups have >= `width` channels."""
  return min(num_groups, channels // width)


def count_heads(
  num_heads: int, head_channels: int | None, channels: int
) -> int:
  """Returns the number of heads: num_heads, or channels / head_channels.

  Raises ValueError if the heads do not divide the channels.
  """
  name, value = 'num_heads', num_heads
  if head_channels is not None:
    name, value = 'head_channels', head_channels
  if channels % value:
    raise ValueError(
      f'{name}={value} does not divide the {channels} channels of an '
      f'attention layer: change {name} or the width of that level'
    )
  return num_heads if head_channels is None else channels // head_channels
