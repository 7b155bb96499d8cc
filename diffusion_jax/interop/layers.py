"""Tables of names as lists of layers: a convolution is one row, not two."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.interop.names import (
  CONV,
  LINEAR,
  SAME,
  Entry,
  Params,
  Rule,
)


class Kind(NamedTuple):
  """Names and rules by which a project stores a kind of layer, by our leaf."""

  leaves: dict[str, tuple[str, Rule]]
  separator: str = '.'


class Layer(NamedTuple):
  """One layer: its path in our parameters, its path there, and its kind."""

  ours: str
  theirs: str
  kind: Kind


# {our path: (their path, the kind of the layer or the layers of the block)}
Patterns = Mapping[str, tuple[str, Kind | Sequence[Layer]]]


def torch_layer(kernel: Rule) -> Kind:
  """Returns the kind of a PyTorch layer with a kernel and a bias."""
  return Kind({'kernel': ('weight', kernel), 'bias': ('bias', SAME)})


class Style(NamedTuple):
  """The kinds of layers in a residual block; pointwise: a 1x1 convolution."""

  conv: Kind
  linear: Kind
  norm: Kind
  pointwise: Kind


TORCH = Style(
  torch_layer(CONV),
  torch_layer(LINEAR),
  Kind({'scale': ('weight', SAME), 'bias': ('bias', SAME)}),
  torch_layer(LINEAR._replace(write=lambda x: x.T[..., None, None])),
)
# LINEAR, written back as PyTorch's Conv1d
TORCH_CONV1D = torch_layer(LINEAR._replace(write=lambda x: x.T[..., None]))
TORCH_EMBEDDING = Kind({'embedding': ('weight', SAME)})


def _swap_halves(x):
  half = len(x) // 2  # an odd number of features ends in a zero
  return np.concatenate([x[half : 2 * half], x[:half], x[2 * half :]])


# PyTorch's Linear of sinusoids in the other order than ours: [sin, cos] in
# place of [cos, sin], or the reverse.
TORCH_SWAPPED = torch_layer(
  Rule(lambda x: _swap_halves(x.T), lambda x: _swap_halves(x).T)
)


def entries(layers: Iterable[Layer], params: Params) -> list[Entry]:
  """Returns the table of names of all leaves of the layers.

  params: our parameters, or their shapes. A layer that our network does not
  have, such as the shortcut of a block that keeps its width, is left out.
  """
  expected = traverse_util.flatten_dict(params, sep='/')
  return [
    Entry(_join('/', ours, leaf), _join(kind.separator, theirs, name), rule)
    for ours, theirs, kind in layers
    for leaf, (name, rule) in kind.leaves.items()
    if _join('/', ours, leaf) in expected
  ]


def _join(separator, *parts):
  return separator.join(part for part in parts if part)


def resnet_block(
  style: Style,
  norm_1: str,
  conv_1: str,
  embedding_proj: str,
  norm_2: str,
  conv_2: str,
  shortcut: str,
) -> tuple[Layer, ...]:
  """Returns the layers of our `ResnetBlock` with their names there."""
  return (
    Layer('norm_1', norm_1, style.norm),
    Layer('conv_1', conv_1, style.conv),
    Layer('embedding_proj', embedding_proj, style.linear),
    Layer('norm_2', norm_2, style.norm),
    Layer('conv_2', conv_2, style.conv),
    Layer('shortcut', shortcut, style.pointwise),
  )


def within(ours: str, theirs: str, layers: Iterable[Layer]) -> Iterator[Layer]:
  """Yields the layers of a block with their paths in both networks.

  ours, theirs: paths of the block. A layer with the path '' is the block.
  """
  for inner, name, kind in layers:
    path = _join(kind.separator, theirs, name)
    yield Layer(_join('/', ours, inner), path, kind)


def expand(
  patterns: Patterns,
  num_blocks: int,
  num_levels: int = 1,
  height: int = 0,
  places: Callable[[int, int], Mapping[str, int]] = lambda level, i: {},
) -> list[Layer]:
  """Returns the layers of a network from patterns of their paths.

  Paths may contain {level}, 0 for the highest resolution, and {i}, the block. A
  path of ours without {level} belongs to the last level, and one without {i}
  follows the last block. Their paths may also contain {back}, the level counted
  from the lowest resolution, {before}, level - 1, {height} of the images,
  {side}, {half} and {twice}, the height at the level and at its neighbours, and
  the keys of places(level, i).
  """
  last = num_levels - 1
  layers: list[Layer] = []
  for ours, (theirs, kind) in patterns.items():
    levels = range(last + 1) if '{level}' in ours else (last,)
    blocks = range(num_blocks + 1) if '{i}' in ours else (num_blocks,)
    for level, i in itertools.product(levels, blocks):
      numbers = {
        'level': level,
        'back': last - level,
        'before': level - 1,
        'i': i,
        'height': height,
        'side': height >> level,
        'half': height >> level + 1,
        'twice': 2 * (height >> level),
        **places(level, i),
      }
      paths = ours.format(**numbers), theirs.format(**numbers)
      if isinstance(kind, Kind):
        layers.append(Layer(*paths, kind))
      else:
        layers += within(*paths, kind)
  return layers
