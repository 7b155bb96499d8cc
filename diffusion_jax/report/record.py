"""Reads what a run folder has of numbers, pictures and results."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Curve(NamedTuple):
  """Holds the values of one metric over the steps, lists of one length."""

  steps: list[int]
  values: list[float]


class Run(NamedTuple):
  """Holds a run: whatever it does not have is empty.

  config: {'section.field': value}; curves: by the name of the metric; sheets:
  (step, file) of the samples during training; results: (folder, content) of
  the evaluations; sessions: the starts and ends of the training.
  """

  name: str
  config: dict[str, Any]
  curves: dict[str, Curve]
  sheets: list[tuple[int, Path]]
  results: list[tuple[str, dict]]
  sessions: list[dict]


def read(name: str, folder: Path, config: dict, sessions: list[dict]) -> Run:
  """Reads a run folder; config: of the run, nested."""
  return Run(
    name,
    flat(config),
    read_curves(folder / 'metrics.jsonl'),
    read_sheets(folder / 'samples'),
    list(read_results(folder / 'evaluation')),
    sessions,
  )


def flat(tree: dict, prefix: str = '') -> dict[str, Any]:
  """Returns {'section.field': value} of nested dicts."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[f'{prefix}{key}'] = value
  return found


def read_curves(path: Path) -> dict[str, Curve]:
  """Reads metrics.jsonl; damaged lines and numbers that are not finite are not
  in the curves.
  """
  curves = {}
  for entry in _lines(path):
    step = entry.pop('step', None)
    if not isinstance(step, int):
      continue
    for name, value in entry.items():
      if isinstance(value, (int, float)) and math.isfinite(value):
        curve = curves.setdefault(name, Curve([], []))
        curve.steps.append(step)
        curve.values.append(value)
  return curves


def read_sheets(folder: Path) -> list[tuple[int, Path]]:
  """Finds the files step_<step>.png of a folder, in the order of the steps."""
  found = []
  for path in folder.glob('step_*.png'):
    step = re.fullmatch(r'step_(\d+)', path.stem)
    if step:
      found.append((int(step[1]), path))
  return sorted(found)


def read_results(folder: Path) -> Iterator[tuple[str, dict]]:
  """Yields the name and content of each result.json and sweep.json below."""
  for path in sorted(folder.rglob('*.json')):
    if path.name in ('result.json', 'sweep.json'):
      found = _json(path)
      if found:
        yield path.parent.relative_to(folder).as_posix(), found


def _json(path):
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _lines(path):
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError):
    return
  for line in lines:
    try:
      entry = json.loads(line)
    except ValueError:  # what a killed run left incomplete
      continue
    if isinstance(entry, dict):
      yield entry
