"""Reads the numbers, pictures and results of a run folder."""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import sessions
from diffusion_jax.runtime.files import is_regular, read_json_lines, read_summed


class Curve(NamedTuple):
  """The values of one metric over the steps, lists of the same length."""

  steps: list[int]
  values: list[float]


class Record(NamedTuple):
  """The content of a run folder; missing parts are empty.

  fields: {'section.field': value} of the config. curves: by name of the metric.
  sheets: (step, file) of samples during training. results: (folder, content) of
  evaluations. sessions: starts and ends of the training. calibration: figures
  of evaluations. traces: the files of traces for xprof, one for each host.
  floors: see `read_floors`.
  """

  name: str
  fields: Json
  curves: dict[str, Curve]
  sheets: list[tuple[int, Path]]
  results: list[tuple[str, dict]]
  sessions: list[dict]
  calibration: Sequence[Path] = ()
  traces: Sequence[Path] = ()
  floors: Mapping[str, Mapping[str, float]] = {}


def read(name: str, folder: Path, fields: Json) -> Record:
  """Reads a run folder; fields: its config by dotted names."""
  return Record(
    name,
    fields,
    read_curves(folder / 'metrics.jsonl'),
    read_sheets(folder / 'samples'),
    list(read_results(folder / 'evaluation')),
    sessions.read(folder),
    [
      x
      for n in ('ranks', 'coverage')
      for x in sorted(files_of(folder / 'evaluation', f'**/{n}.png'))
    ],
    sorted(files_of(folder / 'traces', '**/*.xplane.pb')),
    read_floors(folder / 'loss_floors.json'),
  )


def read_curves(path: Path) -> dict[str, Curve]:
  """Reads the finite numbers of metrics.jsonl; skips damaged lines."""
  curves = {}
  for entry in read_json_lines(path):
    step = entry.pop('step', None)
    for name, value in entry.items() if isinstance(step, int) else ():
      if isinstance(value, (int, float)) and math.isfinite(value):
        curve = curves.setdefault(name, Curve([], []))
        curve.steps.append(step)
        curve.values.append(value)
  return curves


def read_floors(path: Path) -> dict[str, dict[str, float]]:
  """Returns {name of the loss: {exact denoiser: its loss}}; {} without the file."""
  try:
    content = read_summed(path)
    name = content['metric']
    return {name: {line: float(x[name]) for line, x in content['losses'].items()}}
  except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, UserError):
    return {}


def read_sheets(folder: Path) -> list[tuple[int, Path]]:
  """Returns the files step_<step>.png of a folder, sorted by step."""
  return sorted(
    (int(match[1]), path)
    for path in files_of(folder, 'step_*.png')
    if (match := re.fullmatch(r'step_(\d+)', path.stem))
  )


def read_results(folder: Path) -> Iterator[tuple[str, dict]]:
  """Yields the folder, as `short` has it, and content of each result.json and sweep.json."""
  results = [
    (path.parent.relative_to(folder).as_posix(), content)
    for path, content in read_json_files(folder)
    if path.name in ('result.json', 'sweep.json')
  ]
  names = short({name for name, _ in results})
  yield from ((names[name], content) for name, content in results)


def short(names: Iterable[str]) -> dict[str, str]:
  """Returns names of results without their hashes, which only equal names keep."""
  ends = {name: re.sub('-[0-9a-f]{8}$', '', name) for name in names}
  count = Counter(ends.values())
  return {name: end if count[end] == 1 else name for name, end in ends.items()}


def read_json_files(folder: Path) -> Iterator[tuple[Path, dict]]:
  """Yields each JSON file below a folder that contains an object."""
  for path in sorted(files_of(folder, '**/*.json')):
    with contextlib.suppress(FileNotFoundError, UserError):
      if content := read_summed(path):
        yield path, content


def files_of(folder: Path, pattern: str) -> Iterable[Path]:
  """Returns the files of a folder; none of a link, which may lead to all."""
  return filter(is_regular, () if folder.is_symlink() else folder.glob(pattern))
