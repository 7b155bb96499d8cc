"""Tables of names between the parameters of two projects.

A table is a list of entries. `read` makes our parameters from the tensors of
another project, and `write` goes back, bit for bit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from tqdm import tqdm

MOST_NAMES = 10  # in one message


class Rule(NamedTuple):
  """How an array is stored: read(theirs) -> ours, write(ours) -> theirs."""

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
  tensors: Mapping[str, Any],
  shapes: Any,
  ignored: Callable[[str], bool] = lambda name: False,
) -> dict:
  """Returns our parameters, of the shapes of the tree `shapes`.

  Raises ValueError for tensors that are missing, left over (but for `ignored`
  names) or of another shape, with both shapes, ten names at most, and for
  numbers that are not real.
  """
  expected: dict = dict(traverse_util.flatten_dict(shapes, sep='/'))
  entries = list(entries)
  _check_rows(expected, entries)
  names = [entry.theirs for entry in entries]
  missing = [name for name in names if name not in tensors]
  known = set(names)
  left = [n for n in tensors if n not in known and not ignored(n)]
  if missing or left:
    raise ValueError('; '.join(
      f'{what}: {listed(found)}'
      for what, found in (('missing', missing), ('not used', left))
      if found
    ))  # fmt: skip
  params, wrong = {}, []
  bar = tqdm(entries, 'reading', unit='tensor', delay=1, disable=None)
  for ours, theirs, rule in bar:
    shape = np.shape(expected[ours])
    found = array = np.asarray(tensors[theirs])
    if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
      raise ValueError(f'{theirs} holds {array.dtype}, not real numbers')
    try:
      array = rule.read(array)
    except ValueError:  # it has not the axes of what is stored so
      pass
    if array.shape != shape:
      wrong.append(f'{theirs} {found.shape} for {ours} {shape}')
    # A copy: a view would keep all that was read with it.
    params[ours] = np.array(array, np.float32, order='C')
  if wrong:
    raise ValueError(f'of another shape: {listed(wrong)}')
  return traverse_util.unflatten_dict(params, sep='/')


def write(entries: Iterable[Entry], params: Any) -> dict[str, np.ndarray]:
  """Returns tensors by the names of the other project.

  Raises ValueError for a parameter that is not in the table.
  """
  ours: dict = dict(traverse_util.flatten_dict(params, sep='/'))
  entries = list(entries)
  _check_rows(ours, entries)
  return {
    entry.theirs: np.ascontiguousarray(
      entry.rule.write(np.asarray(ours[entry.ours]))
    )
    for entry in entries
  }


def _check_rows(ours, entries):
  absent = set(ours) - {entry.ours for entry in entries}
  if absent:
    raise ValueError(f'not in the table of names: {listed(sorted(absent))}')


def listed(names: Iterable[str]) -> str:
  """Returns 'a, b and 7 more'."""
  names = list(names)
  more = len(names) - MOST_NAMES
  shown = ', '.join(names[:MOST_NAMES])
  return f'{shown} and {more} more' if more > 0 else shown
