"""Tables of names between the parameters of two projects.

A table is a list of entries. `read` makes our parameters from the tensors of
another project, and `write` goes back, bit for bit. `entries` makes a table of
a list of layers, in which a convolution is one row, not two.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import traverse_util
from tqdm import tqdm

from diffusion_jax.aliases import NamedParams

MOST_NAMES = 10  # the most names in one message

Tensors = Mapping[str, np.ndarray]
Params = NamedParams


class NameRule(NamedTuple):
  """The layout of an array: read(theirs) -> ours, write(ours) -> theirs."""

  read: Callable[[np.ndarray], np.ndarray]
  write: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
  """One parameter: its path in ours, 'conv_in/kernel', and its name there."""

  ours: str
  theirs: str
  rule: NameRule


def _same(x):
  return x


SAME = NameRule(_same, _same)
# PyTorch's Linear [out, in] or Conv2d [out, in, height, width] <-> [..., in, out]
KERNEL = NameRule(
  lambda x: x.transpose(*range(2, x.ndim), 1, 0), lambda x: x.transpose(-1, -2, *range(x.ndim - 2))
)


def read(
  entries: Iterable[Entry],
  tensors: Tensors,
  shapes: Params,
  ignored: Callable[[str], bool] = lambda name: False,
) -> Params:
  """Returns our parameters, float32, with the shapes of the tree `shapes`.

  First axes of 1 that ours do not have, such as a 1x1 convolution's, are left out.
  Raises ValueError, with ten names at most, for tensors that are missing, that
  the table does not use (except for `ignored` names), of another shape, or
  whose numbers are not real.
  """
  expected: dict = dict(traverse_util.flatten_dict(shapes, sep='/'))
  entries = list(entries)
  _check_rows(expected, entries)
  used = {entry.theirs: None for entry in entries}
  missing = [name for name in used if name not in tensors]
  others = [n for n in tensors if n not in used and not ignored(n)]
  refuse({'missing': missing, 'not used': others})
  params, shaped, typed = {}, [], []
  bar = tqdm(entries, 'reading', unit='tensor', delay=1, disable=None)
  for ours, theirs, rule in bar:
    shape = np.shape(expected[ours])
    stored = array = np.asarray(tensors[theirs])
    if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
      typed.append(f'{theirs} ({array.dtype})')
      continue
    try:
      array = rule.read(array)
    except ValueError:  # The rule needs another number of axes.
      pass
    if array.shape[array.ndim - len(shape) :] == shape and array.size == math.prod(shape):
      array = array.reshape(shape)
    if array.shape != shape:
      shaped.append(f'{theirs} {stored.shape} for {ours} {shape}')
    # A copy: a view would keep all that was read with it.
    params[ours] = np.array(array, np.float32, order='C')
  refuse({'of another shape': shaped, 'not real numbers': typed})
  return traverse_util.unflatten_dict(params, sep='/')


def write(
  entries: Iterable[Entry], params: Params, rule: NameRule | None = None
) -> dict[str, np.ndarray]:
  """Returns tensors by the names of the other project.

  rule: of all tensors, instead of their own. Raises ValueError for a parameter
  that is not in the table.
  """
  ours: dict = dict(traverse_util.flatten_dict(params, sep='/'))
  entries = list(entries)
  _check_rows(ours, entries)
  return {
    entry.theirs: np.asarray(  # tensors of any shape, [] too
      (rule or entry.rule).write(np.asarray(ours[entry.ours])), order='C'
    )
    for entry in entries
  }


def _check_rows(ours, entries):
  absent = set(ours) - {entry.ours for entry in entries}
  refuse({'not in the table of names': sorted(absent)})


def find(tensors: Tensors, name: str) -> np.ndarray:
  """Returns a tensor by its name; ValueError if it is missing."""
  refuse({'missing': [] if name in tensors else [name]})
  return tensors[name]


def under(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
  """Returns the tensors whose names begin with a prefix, without the prefix."""
  return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def refuse(problems: Mapping[str, list[str]]) -> None:
  """Raises ValueError with the names of each problem, if there are any."""
  parts = [f'{what}: {listed(n)}' for what, n in problems.items() if n]
  require(not parts, '; '.join(parts))


def require(holds: bool, message: str) -> None:
  """Raises ValueError with the message if a condition does not hold."""
  if not holds:
    raise ValueError(message)


def listed(names: Iterable[str]) -> str:
  """Returns 'a, b and 7 more'."""
  names = list(names)
  more = len(names) - MOST_NAMES
  shown = ', '.join(names[:MOST_NAMES])
  return f'{shown} and {more} more' if more > 0 else shown


class LayerNames(NamedTuple):
  """Names and rules by which a project stores a kind of layer, by our leaf.

  A layer may have some of the leaves.
  """

  leaves: dict[str, tuple[str, NameRule]]
  separator: str = '.'


class Layer(NamedTuple):
  """One layer: its path in our parameters, its path there, and its kind."""

  ours: str
  theirs: str
  kind: LayerNames


# What a name stands for: a layer, or the layers of a block.
Inside = LayerNames | Sequence[Layer]
Patterns = dict[str, tuple[str, Inside]]  # {our path: (their path, what is there)}


def torch_layer(kernel: NameRule) -> LayerNames:
  """Returns the kind of a layer of PyTorch whose kernel has this layout.

  It also stands for a single array, by the path of the array.
  """
  weights = {'kernel': kernel, 'scale': SAME, 'embedding': SAME}
  leaves = {n: ('weight', rule) for n, rule in weights.items()}
  return LayerNames({**leaves, 'bias': ('bias', SAME), '': ('', SAME)})


TORCH = torch_layer(KERNEL)
# A product here, a 1x1 convolution there.
POINTWISE = torch_layer(KERNEL._replace(write=lambda x: x.T[..., None, None]))


def _swap_halves(x):
  half = len(x) // 2  # an odd number of features ends in a zero
  return np.concatenate([x[half : 2 * half], x[:half], x[2 * half :]])


# PyTorch's Linear of sinusoids in the other order than ours: [sin, cos] in
# place of [cos, sin], or the reverse.
TORCH_SWAPPED = torch_layer(NameRule(lambda x: _swap_halves(x.T), lambda x: _swap_halves(x).T))


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


def table(text: str, **kinds: Inside) -> Patterns:
  """Returns the patterns of lines of our path, their path, and a word of `kinds`.

  A line without a word is a layer of PyTorch, or an array.
  """
  rows = [line.split() for line in text.strip().splitlines()]
  return {ours: (theirs, kinds[word[0]] if word else TORCH) for ours, theirs, *word in rows}


def layers(ours: str, theirs: str, kind: LayerNames = TORCH) -> tuple[Layer, ...]:
  """Returns the layers of a block, of one kind; names are separated by spaces."""
  pairs = zip(ours.split(), theirs.split(), strict=True)
  return tuple(Layer(*pair, kind) for pair in pairs)


def resnet_block(theirs: str, kind: LayerNames = TORCH) -> tuple[Layer, ...]:
  """Returns the layers of our `ResnetBlock`; theirs: their names there, in its order."""
  ours = 'norm_1 conv_1 embedding_proj norm_2 conv_2 shortcut'
  *others, shortcut = layers(ours, theirs, kind)
  return *others, shortcut._replace(kind=POINTWISE) if kind is TORCH else shortcut


def within(ours: str, theirs: str, inside: Inside) -> Iterator[Layer]:
  """Yields a layer, or the layers of a block, with their paths in both networks.

  ours, theirs: paths of it. A layer with the path '' is the block.
  """
  for inner, name, kind in [('', '', inside)] if isinstance(inside, LayerNames) else inside:
    yield Layer(_join('/', ours, inner), _join(kind.separator, theirs, name), kind)


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
  rows: list[Layer] = []
  for ours, (theirs, inside) in patterns.items():
    levels = range(last + 1) if '{level}' in ours else (last,)
    blocks = range(num_blocks + 1) if '{i}' in ours else (num_blocks,)
    for level, i in itertools.product(levels, blocks):
      side = height >> level
      numbers = dict(
        level=level,
        back=last - level,
        before=level - 1,
        i=i,
        height=height,
        side=side,
        half=side >> 1,
        twice=2 * side,
        **places(level, i),
      )
      rows += within(ours.format(**numbers), theirs.format(**numbers), inside)
  return rows
