"""Tables of names between the parameters of two projects.

A table is a list of entries. `read` makes our parameters from the tensors of
another project, and `write` goes back, bit for bit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax import traverse_util
from tqdm import tqdm

from diffusion_jax.aliases import NamedParams

MOST_NAMES = 10  # in one message

Tensors = Mapping[str, np.ndarray]
Params = NamedParams


class Rule(NamedTuple):
  """The layout of an array: read(theirs) -> ours, write(ours) -> theirs."""

  read: Callable[[np.ndarray], np.ndarray]
  write: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
  """One parameter: its path in ours, 'conv_in/kernel', and its name there."""

  ours: str
  theirs: str
  rule: Rule


def _same(x):
  return x


SAME = Rule(_same, _same)
# PyTorch's Linear [out, in]; also a 1x1 convolution [out, in, 1(, 1)] that is
# read as one (written back as Linear, by CONV_1X1 as Conv2d).
LINEAR = Rule(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T)
CONV_1X1 = LINEAR._replace(write=lambda x: x.T[:, :, None, None])
# PyTorch's Conv2d [out, in, height, width] <-> [height, width, in, out]
CONV = Rule(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)


def read(
  entries: Iterable[Entry],
  tensors: Tensors,
  shapes: Params,
  ignored: Callable[[str], bool] = lambda name: False,
) -> Params:
  """Returns our parameters, float32, with the shapes of the tree `shapes`.

  Raises ValueError, with ten names at most, for tensors that are missing, that
  the table does not use (except for `ignored` names), of another shape, or
  whose numbers are not real.
  """
  expected: dict = dict(traverse_util.flatten_dict(shapes, sep='/'))
  entries = list(entries)
  _check_rows(expected, entries)
  used = {entry.theirs: None for entry in entries}
  refuse(
    {
      'missing': [name for name in used if name not in tensors],
      'not used': [n for n in tensors if n not in used and not ignored(n)],
    }
  )
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
    if array.shape != shape:
      shaped.append(f'{theirs} {stored.shape} for {ours} {shape}')
    # A copy: a view would keep all that was read with it.
    params[ours] = np.array(array, np.float32, order='C')
  refuse({'of another shape': shaped, 'not real numbers': typed})
  return traverse_util.unflatten_dict(params, sep='/')


def write(
  entries: Iterable[Entry], params: Params, rule: Rule | None = None
) -> dict[str, np.ndarray]:
  """Returns tensors by the names of the other project.

  rule: of all tensors, instead of their own. Raises ValueError for a parameter
  that is not in the table.
  """
  ours: dict = dict(traverse_util.flatten_dict(params, sep='/'))
  entries = list(entries)
  _check_rows(ours, entries)
  return {
    entry.theirs: np.asarray(  # of any shape, [] too
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
  return {
    name.removeprefix(prefix): x
    for name, x in tensors.items()
    if name.startswith(prefix)
  }


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
