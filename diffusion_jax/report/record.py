"""Reads the numbers, pictures and results of a run folder."""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import sessions
from diffusion_jax.runtime.files import is_regular, read_json_lines, read_summed, warn
from diffusion_jax.runtime.run_folder import Folder

HELD_OUT = 'test_', 'validation_'  # what losses of held-out examples begin with
NUM_SAMPLES = 'num_samples'  # of the scores in a line of metrics.jsonl


class Curve(NamedTuple):
  """The values of one metric over the steps, lists of the same length."""

  steps: list[int]
  values: list[float]

  def at(self, step: int | None) -> float | None:
    """Returns the last value up to a step, if any; None: the last of all."""
    count = len([x for x in self.steps if step is None or x <= step])
    return self.values[count - 1] if count else None


class Floor(NamedTuple):
  """The loss of an exact denoiser, and its standard error."""

  value: float
  error: float


# {section: its fields} of `sampling` and `evaluation` that words about results leave out.
LeftOut = Mapping[str, Collection[str]]


class Record(NamedTuple):
  """The content of a run folder; missing parts are empty.

  fields: {'section.field': value} of the config. curves: by name of the metric.
  sheets: (step, file) of samples during training. results: (folder, content) of
  evaluations. sessions: starts and ends of the training. figures: pictures
  of evaluations. traces: the files of traces for xprof, one for each host.
  floors: see `read_floors`. sampled: the step whose weights draw samples; None if
  it is unknown. unsaid: see `Unsaid`. expected: {name of a curve: {step: (low, high)}}, where
  trainings with other seeds say that its values are.
  """

  name: str
  fields: Json
  curves: dict[str, Curve]
  sheets: list[tuple[int, Path]]
  results: list[tuple[str, dict]]
  sessions: list[dict]
  figures: Sequence[Path] = ()
  traces: Sequence[Path] = ()
  floors: Mapping[str, Mapping[str, Floor]] = {}
  sampled: int | None = None
  unsaid: LeftOut = MappingProxyType({})
  expected: Mapping[str, Mapping[int, tuple[float, float]]] = MappingProxyType({})

  @property
  def last(self) -> int:
    """The last step that was logged; 0 without any."""
    return max((x.steps[-1] for x in self.curves.values()), default=0)

  @property
  def chosen(self) -> str:
    """A sentence about the step that is sampled, if it is not the last one; else ''."""
    if self.sampled is None or self.sampled >= self.last:
      return ''
    text = f'sampling uses step {self.sampled:,}, and not the last one, {self.last:,}'
    for split in HELD_OUT:
      curve = self.curves.get(f'{split}loss')
      if curve and self.sampled in curve.steps:
        loss, last = curve.values[curve.steps.index(self.sampled)], curve.values[-1]
        if last > loss:
          return f'the {split[:-1]} loss has risen from {loss:.4g} to {last:.4g}: {text}'
    return text

  @property
  def noun(self) -> str:
    """What several examples of its data are called; see `ArraySpec.noun`."""
    return noun_of(self.fields)


def noun_of(fields: Json) -> str:
  """Returns what several examples of the data of a run with these fields are called."""
  shape, levels = (fields.get(f'facts.x.{name}') for name in ('shape', 'levels'))
  with contextlib.suppress(TypeError):
    return ArraySpec(tuple(shape or (0, 0, 0)), bool(levels or shape is None)).noun
  return 'examples'


def of_number(count: int, noun: str) -> str:
  """Returns what follows the name of a score of samples, on whose number it may depend."""
  return f' of {count:,} {noun}' if count else ''


def read(
  name: str,
  folder: Folder,
  fields: Json,
  sampled: int | None = None,
  unsaid: LeftOut = MappingProxyType({}),
) -> Record:
  """Reads a run folder; fields: its config by dotted names; sampled, unsaid: see `Record`."""
  return Record(
    name,
    fields,
    curves=read_curves(folder / 'metrics.jsonl', noun_of(fields)),
    sheets=read_sheets(folder / 'samples'),
    results=list(read_results(folder / 'evaluation')),
    sessions=sessions.read(folder),
    figures=[
      x
      for n in ('parts', 'ranks', 'coverage')
      for x in sorted(files_of(folder / 'evaluation', f'**/{n}.png'))
    ],
    traces=sorted(files_of(folder / 'traces', '**/*.xplane.pb')),
    floors=read_floors(folder / 'loss_floors.json'),
    sampled=sampled,
    unsaid=unsaid,
  )


def read_curves(path: Path, noun: str = 'images') -> dict[str, Curve]:
  """Reads the finite numbers of metrics.jsonl; skips damaged lines.

  Scores of samples are named with their number, 'fd of 100 images'. noun: of the samples.
  """
  curves = {}
  for entry in read_json_lines(path):
    step, count = entry.pop('step', None), entry.pop(NUM_SAMPLES, 0)
    added = of_number(int(count), noun) if _is_finite(count) else ''
    for name, value in entry.items() if isinstance(step, int) else ():
      if _is_finite(value):
        name += '' if name.startswith(HELD_OUT) else added
        curve = curves.setdefault(name, Curve([], []))
        curve.steps.append(step)
        curve.values.append(value)
  return curves


def _is_finite(value):
  return isinstance(value, (int, float)) and math.isfinite(value)


def read_floors(path: Path) -> dict[str, dict[str, Floor]]:
  """Returns {name of a curve: {exact denoiser: its loss}}; {} without the file.

  The losses are on the examples of the curve.
  """
  try:
    losses = read_summed(path)['losses'].items()
    return {name: {line: _floor(x) for line, x in lines.items()} for name, lines in losses}
  except UserError as error:
    warn(f'left out: {error}')
  except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
    pass
  return {}


def _floor(x):
  return Floor(*(float('nan' if x[name] is None else x[name]) for name in Floor._fields))


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


@contextlib.contextmanager
def leaving_out(what: str) -> Iterator[None]:
  """Leaves out, with a warning, what is not as it was written: a file may be a stranger's."""
  try:
    yield
  except Exception:  # Its values may be of any types.
    warn(f'left out: {what}, which is not as this program writes it')


def short(names: Iterable[str]) -> dict[str, str]:
  """Returns names of results without their hashes, which only equal names keep."""
  ends = {name: without_hash(name) for name in names}
  count = Counter(ends.values())
  return {name: end if count[end] == 1 else name for name, end in ends.items()}


def without_hash(name: str) -> str:
  """Returns the name of a result without its hash."""
  return re.sub('-[0-9a-f]{8}$', '', name)


def read_json_files(folder: Path) -> Iterator[tuple[Path, dict]]:
  """Yields each JSON file below a folder that contains an object; warns of damaged ones."""
  for path in sorted(files_of(folder, '**/*.json')):
    try:
      if content := read_summed(path):
        yield path, content
    except FileNotFoundError:
      continue
    except UserError as error:
      warn(f'left out: {error}')


def files_of(folder: Path, pattern: str) -> Iterable[Path]:
  """Returns the files of a folder; none of a link, which may lead to all."""
  return filter(is_regular, () if folder.is_symlink() else folder.glob(pattern))
