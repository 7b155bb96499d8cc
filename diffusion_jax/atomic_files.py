"""Writes files whole or not at all, and through no link."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def draft(path: str | Path) -> Iterator[BinaryIO]:
  """Opens a new file, which replaces `path` if the block raises no error."""
  new = Path(f'{path}.{secrets.token_hex(4)}.tmp')
  try:
    with new.open('xb') as file:  # O_EXCL, which opens no link
      yield file
    new.replace(path)
  finally:
    new.unlink(missing_ok=True)


@contextlib.contextmanager
def draft_folder(path: str | Path) -> Iterator[Path]:
  """Makes a new folder, which is renamed to `path` if the block ends well.

  `path` may be an empty folder. A kill leaves <path>.<random>.tmp.
  """
  path = Path(path).resolve()
  new = Path(f'{path}.{secrets.token_hex(4)}.tmp')
  new.mkdir(parents=True)
  try:
    yield new
    new.rename(path)
  finally:
    shutil.rmtree(new, ignore_errors=True)


def own_folder(path: str | Path) -> Path:
  """Makes a folder, if it is missing; raises ValueError for a link."""
  path = Path(path)
  if path.is_symlink():  # A run may come from a stranger.
    raise ValueError(f'nothing is written in {path}, a link: remove it')
  path.mkdir(parents=True, exist_ok=True)
  return path


def write_figure(path: str | Path, figure: Any) -> None:
  """Writes a figure of matplotlib as a PNG file."""
  with draft(path) as file:
    figure.savefig(file, format='png')
