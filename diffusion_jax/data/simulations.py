"""Simulations that run once and are kept in a folder."""

import contextlib
import functools
import inspect
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from diffusion_jax.atomic_files import draft, own_folder
from diffusion_jax.data import npz, reads
from diffusion_jax.data.code_sums import code_of
from diffusion_jax.data.sums import digest, of_path
from diffusion_jax.paths import WRITTEN, texts_in, use_of

# (rng, n) -> {'x': [n, ...], 'context': [n, ...]}; 'label' [n] is optional.
Simulator = Callable[[np.random.Generator, int], dict[str, np.ndarray]]
Arrays = dict[str, np.ndarray]
BLOCK = 100  # simulations at a time; each block has its own random numbers
MOST_KEPT = 2**32  # bytes of a split
_OPENED = 'opened'  # the array of a file with the JSON of what the simulator has read, see `reads`


class KeptIn(NamedTuple):
  """Where simulations are kept.

  written: the folder of new ones, None for none; read: one that may have some.
  """

  written: Path | None
  read: Path | None = None


def simulations(
  simulate: Simulator,
  size: int,
  seed: tuple[int, ...],
  workers: int = 0,
  folder: str | Path | KeptIn | dict[str, Arrays] | None = None,
  version: int = 1,
) -> tuple[Arrays, bool]:
  """Returns (simulations 0..size - 1, whether the folder lacked any).

  Block i depends only on the seed and i. The folder keeps each block, and one
  file when all are there, by a sum of the simulator's code, its fields, the files
  that they name, the seed and the versions; see `keep` for a dict. What is kept is simulated again
  when other files that the simulator has opened change (`reads`). A function that
  another one has made is not kept. workers: processes that simulate; 0: this one.
  Raises ValueError.
  """
  _watch(simulate)
  name = '' if folder is None else _name(simulate, seed, version)
  folder = KeptIn(Path(folder)) if isinstance(folder, (str, Path)) else folder
  places = [folder.written, folder.read] if name and isinstance(folder, KeptIn) else [None]
  path, *others = (place and place / f'{name}.npz' for place in places)
  before = next(filter(None, map(_read, (path, *others))), None) or {}
  records = [before.pop(_OPENED)] if before else []
  count = len(before['x']) if before else 0
  same = size if count == size else min(size, count) // BLOCK * BLOCK
  blocks = {0: {n: x[:same] for n, x in before.items()}} if same else {}
  if same < size:
    if path:
      own_folder(path.parent)
    job = functools.partial(_kept_block, simulate, size, seed, path, reads.record())
    blocks |= _computed(job, range(same, size, BLOCK), size, workers)
  records += [part.pop(_OPENED) for part in blocks.values() if _OPENED in part]
  first, *others = parts = [blocks[start] for start in sorted(blocks)]
  for part in others:
    check_shapes(part, first)
  arrays = {n: np.concatenate([part[n] for part in parts]) for n in first}
  opened = {_OPENED: _as_array(reads.joined(*(json.loads(x.item()) for x in records)))}
  if name and isinstance(folder, dict):
    folder[name] = arrays | opened
  if path and size > count:
    fits = _write(path, arrays | opened, size)
    what = 'are kept' if fits else 'are too large to be kept'
    print(f'{size:,} simulations {what} in {path.parent}')
    for part in path.parent.glob(f'{path.stem}-*.npz'):
      part.unlink(missing_ok=True)
  return arrays, same < size


def keep(tried: dict[str, Arrays], folder: str | Path) -> None:
  """Writes the first block of simulations into a folder.

  tried: what `simulations` has stored in a dict in place of the folder.
  """
  for name, arrays in tried.items():
    count = len(arrays['x'])
    _write(_part(own_folder(folder) / f'{name}.npz', 0, count), arrays, count)


def _part(path, start, count):
  return path.with_name(f'{path.stem}-{start}-{count}.npz')


def _kept_block(simulate, size, seed, path, before, start):
  # Returns the arrays of a block, which a file keeps, and what was opened for them. before: what
  # the first process has opened, such as for the import of the simulator, which workers repeat.
  _watch(simulate)
  count = min(BLOCK, size - start)
  part = path and _part(path, start, count)
  arrays = _read(part)  # an earlier start or another process wrote this part
  if arrays is None:
    arrays = simulate_block(simulate, (*seed, start // BLOCK), count)
    arrays = arrays | {_OPENED: _as_array(reads.joined(before, reads.record()))}
    if part:
      _write(part, arrays, size)
  return arrays


def simulate_block(simulate: Simulator, seed: tuple[int, ...], count: int) -> Arrays:
  """Returns a simulator's arrays [count, ...]; ValueError for other results."""
  rng = np.random.default_rng([*map(int, seed)])
  return check_simulations(simulate(rng, count), count)


def _computed(job, starts, size, workers):
  # Returns {start: job(start)}, with a bar. The order is random, so that
  # processes that begin together share the work.
  starts = np.random.default_rng().permutation(starts).tolist()
  every = 0.1 if sys.stderr.isatty() else 10.0
  blocks = {}
  with (
    _mapped(job, workers) as mapped,
    tqdm(
      desc='simulating',
      total=size,
      unit='simulation',
      initial=min(starts),
      delay=1,
      mininterval=every,
    ) as bar,
  ):
    for start, blocks[start] in zip(starts, mapped(job, starts), strict=True):
      bar.update(len(blocks[start]['x']))
  return blocks


@contextlib.contextmanager
def _mapped(job, workers):
  # Yields the function `map`, of this process or of several.
  if not workers:
    yield map
    return
  try:
    pickle.dumps(job)
  except (AttributeError, TypeError, pickle.PicklingError) as error:
    raise ValueError(
      f'workers={workers} needs a simulator that its module has by its name: {error}'
    ) from None
  children = multiprocessing.active_children
  context, before = multiprocessing.get_context('spawn'), {*children()}
  pool = ProcessPoolExecutor(workers, context, _begin_worker)
  try:
    yield pool.map
  except process.BrokenProcessPool:
    raise ValueError(
      f'one of workers={workers} processes ended: set fewer if they lack memory'
    ) from None
  finally:
    for child in {*children()} - before:
      child.terminate()
    pool.shutdown(cancel_futures=True)


def _begin_worker():
  # The parent handles Ctrl-C. A worker ends with its parent, even by a kill.
  def end_with(parent):
    parent.join()
    os._exit(1)

  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _write(path, arrays, size):
  # Writes a file, and returns whether `size` simulations are few enough.
  rest = {n: x for n, x in arrays.items() if n != _OPENED}
  each = sum(array.nbytes for array in rest.values()) / len(rest['x'])
  if each * size > MOST_KEPT:
    return False
  with draft(path) as file:
    np.savez(file, **arrays)
  return True


def _as_array(record):
  return np.array(json.dumps(record))


def _read(path):
  # Returns the arrays of a file and what was opened for them, or None if it is missing, damaged,
  # or of other files.
  try:
    arrays = npz.read(path, npz.names_of(path)) if path else None
    if arrays is None:
      return None
    opened = dict(json.loads((record := arrays.pop(_OPENED)).item()))
    changed = [name for name, x in reads.now(opened).items() if x != opened[name]]
    if not changed:
      return check_simulations(arrays, len(arrays['x'])) | {_OPENED: record}
    print(f'{path}: its simulations run again, since {changed[0]} has changed')
  except FileNotFoundError:
    pass
  except (AttributeError, TypeError, ValueError, KeyError) as error:
    print(f'{path} is damaged, and its simulations run again: {error}')
  return None


def _watch(simulate):
  # Files are looked up in what is kept only for a simulator of the user's own.
  function = simulate.func if isinstance(simulate, functools.partial) else simulate
  if not str(function.__module__).startswith('diffusion_jax.'):
    reads.watch()


def _name(simulate, seed, version):
  # Returns the split and a sum of what its simulations depend on; '' if that is
  # not known: the code of a function does not say what another one gave to it.
  if not isinstance(simulate, functools.partial):
    simulate = functools.partial(simulate)
  function, fields = simulate.func, sorted(simulate.keywords.items())
  named = vars(inspect.getmodule(function)).values()
  if '<locals>' in function.__qualname__ and all(x is not function for x in named):
    return ''
  code, files = code_of(function), _files_of(function, simulate.keywords)
  about = function.__qualname__, fields, files, seed, BLOCK, version, code, np.__version__
  return f'{"test" if seed[1] else "train"}-{digest([repr(about).encode()])}'


def _files_of(function, fields):
  # Returns sums of the files and folders that fields name, but for those that it writes.
  types = inspect.get_annotations(function, eval_str=True)
  read = {n: x for n, x in fields.items() if use_of(types.get(n)) != WRITTEN}
  return [(n, of_path(x)) for n, paths in sorted(read.items()) for x in texts_in(paths) if x]


def check_shapes(arrays: Arrays, first: Arrays) -> None:
  """Raises ValueError if the shapes differ from the first block's."""
  now, was = ({n: x.shape[1:] for n, x in a.items()} for a in (arrays, first))
  if now != was:
    raise ValueError(f'a simulator must return the same shapes each time, got {now} after {was}')


def check_simulations(arrays: object, count: int) -> Arrays:
  """Returns a simulator's result; raises ValueError in one line for another."""
  names = 'x', 'context', 'label'
  if not isinstance(arrays, dict) or 'x' not in arrays or {*arrays} - {*names}:
    given = [*arrays] if isinstance(arrays, dict) else type(arrays).__name__
    raise ValueError(f'a simulator must return a dict with x, and context or label: got {given}')
  found = {}
  for name, array in arrays.items():
    array = np.asarray(array)
    if array.ndim < 1 + (name != 'label') or len(array) != count:
      raise ValueError(
        f'a simulator must return {name} of the shape [{count}, ...], got {list(array.shape)}'
      )
    stays = array.dtype == np.uint8 or array.dtype.kind == 'f'
    kind = array.dtype if stays else np.float64
    kind = np.int32 if name == 'label' else kind
    found[name] = array.astype(kind, copy=False)
  return found
