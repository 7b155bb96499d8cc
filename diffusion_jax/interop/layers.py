"""Tables of names made of layers: a convolution here is a convolution there."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flax import traverse_util

from diffusion_jax.interop.names import CONV, LINEAR, SAME, Entry, Rule


class Kind(NamedTuple):
  """How a project stores a kind of layer: its names and rules, by our leaf."""

  leaves: dict[str, tuple[str, Rule]]
  separator: str = '.'


class Layer(NamedTuple):
  """A layer: its path in our parameters, its path there, and its kind."""

  ours: str
  theirs: str
  kind: Kind


def _torch(kernel: Rule) -> Kind:
  return Kind({'kernel': ('weight', kernel), 'bias': ('bias', SAME)})


TORCH_CONV = _torch(CONV)
TORCH_LINEAR = _torch(LINEAR)
# LINEAR, written back as PyTorch's Conv1d and as its 1x1 Conv2d
TORCH_CONV1D = _torch(LINEAR._replace(write=lambda x: x.T[..., None]))
TORCH_POINTWISE = _torch(LINEAR._replace(write=lambda x: x.T[..., None, None]))
TORCH_NORM = Kind({'scale': ('weight', SAME), 'bias': ('bias', SAME)})
TORCH_EMBEDDING = Kind({'embedding': ('weight', SAME)})


def entries(layers: Iterable[Layer], shapes: Any) -> list[Entry]:
  """Returns the table of names of those leaves of layers that `shapes` has.

  A layer that our network does not have, such as the shortcut of a block that
  keeps its width, is left out.
  """
  expected = traverse_util.flatten_dict(shapes, sep='/')
  return [
    Entry(f'{ours}/{leaf}', f'{theirs}{kind.separator}{name}', rule)
    for ours, theirs, kind in layers
    for leaf, (name, rule) in kind.leaves.items()
    if f'{ours}/{leaf}' in expected
  ]


def within(ours: str, theirs: str, layers: Iterable[Layer]) -> Iterator[Layer]:
  """Yields the layers of a block at its place in both networks."""
  for layer in layers:
    separator = layer.kind.separator
    yield Layer(
      f'{ours}/{layer.ours}', f'{theirs}{separator}{layer.theirs}', layer.kind
    )
