"""Writes files whole or not at all, and reads lines of JSON."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffusion_jax.errors import UserError


def make_folder(workdir: str | Path) -> Path:
  """Makes a folder; raises UserError if it cannot be written."""
  try:
    os.makedirs(workdir, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
  except OSError as error:
    raise UserError(
      f'cannot write in the workdir {workdir} ({error.strerror}): '
      'give another --workdir'
    ) from error
  return Path(workdir)


def write_json(path: Path, content: dict) -> None:
  """Writes an object as JSON, whole or not at all."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def write_text(path: Path, text: str) -> None:
  """Writes a text file, whole or not at all."""
  draft = path.with_name(f'{path.name}.tmp')
  draft.write_text(text, encoding='utf-8')
  draft.replace(path)


def write_npz(path: Path, arrays: dict) -> None:
  """Writes an npz file, whole or not at all."""
  draft = path.with_name(f'{path.name}.tmp')
  with draft.open('wb') as file:
    np.savez(file, **arrays)
  draft.replace(path)


def read_json_lines(path: Path) -> Iterator[dict]:
  """Yields the JSON objects of a file that has one per line.

  Skips incomplete lines, which a full disk or a kill may leave. A missing file
  yields nothing.
  """
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError):
    return
  for line in lines:
    with contextlib.suppress(ValueError):
      entry = json.loads(line)
      if isinstance(entry, dict):
        yield entry
