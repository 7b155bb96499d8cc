"""The examples that a run was trained on, which it keeps as hashes, in other data."""

from pathlib import Path
from typing import get_args

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.sections import Split
from diffusion_jax.data import hashes, npz
from diffusion_jax.data.sources import Source, drawn_anew
from diffusion_jax.runtime.files import is_regular, write_npz
from diffusion_jax.runtime.run_folder import RunFolder

FILE = 'trained_on.npz'
_DATA = 'data'  # the sums of the sets that the run was trained on


def keep(run: RunFolder, source: Source, checksum: str) -> None:
  """Writes the hashes of all training examples into a run folder, unless it has them.

  checksum: of the source. Hashes of other data, with which the run has begun, stay.
  Nothing is written for data that each epoch draws again, or of more than hashes.MOST examples.
  """
  path, before = run / FILE, {}
  if is_regular(path):
    before = read(path)
    if checksum and checksum in before[_DATA]:
      return
  with from_config('data'):
    if hashes.work(source, len(source)) > hashes.MOST or drawn_anew(source):
      return
    found: dict[str, np.ndarray] = hashes.of_examples(source, len(source))
  found[_DATA] = np.array([checksum])
  both = {name: [x, *([before[name]] if before else [])] for name, x in found.items()}
  write_npz(path, {name: np.unique(np.concatenate(x)) for name, x in both.items()})


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads what `keep` has written; UserError for a damaged file, and for one that is packed."""
  with from_config('workdir'):
    size = path.stat().st_size
    return npz.read(path, ['exactly', f'to_{hashes.DIGITS}_digits', _DATA], size)


def count(run: RunFolder, config: Node, split: str, most: int = 0) -> Json:
  """Returns how many of the first examples of a split a run was trained on; most=0: of all.

  {'examples': n, 'exactly': n, 'to_6_digits': n}; {} if the run has no hashes, the
  split is a file, or these examples are more than hashes.MOST.
  """
  path = run / FILE
  if not is_regular(path) or split not in get_args(Split):
    return {}
  source = datasets.source_of(config, split)
  examples = min(most or len(source), len(source))
  if hashes.work(source, examples) > hashes.MOST:
    return {}
  known = read(path)
  with from_config('data'):
    found = hashes.of_examples(source, examples)
  same = {name: int(np.isin(x, known[name]).sum()) for name, x in found.items()}
  return {'examples': examples, **same}


def in_words(counts: Json, what: str) -> str:
  """Returns a note about the result of `count`; what: such as 'test images'."""
  if not counts:
    return f'note: it is not known whether the run was trained on some of these {what}'
  total, exact, near = counts.values()
  text = f'note: {exact:,} of these {total:,} {what} were trained on'
  return text + (f', and {near - exact:,} more agree with some to 6 digits' if near > exact else '')
