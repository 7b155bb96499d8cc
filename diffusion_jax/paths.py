"""Paths of this machine, and addresses of buckets; types of parameters that are paths."""

import os
import re
from collections.abc import Callable, Mapping
from errno import ENOENT
from pathlib import Path
from typing import Annotated, get_args

READ, RUN, WRITTEN = 'is read', 'is a run that is read', 'is written'
ReadPath = Annotated[str, READ]  # the path of a file or folder that the constructor reads
RunPath = Annotated[str, RUN]  # a path that other code reads, such as the folder of a run
WritePath = Annotated[str, WRITTEN]


def use_of(annotation: object) -> str:
  """Returns READ, RUN or WRITTEN for the type of a path or of several, '' for others."""
  uses = (x for x in (READ, RUN, WRITTEN) if annotation == x)
  return next(uses, '') or next(filter(None, map(use_of, get_args(annotation))), '')


def texts_in(tree: object) -> list[str]:
  """Returns each string in a config or in a config.json."""
  if isinstance(tree, Mapping):
    tree = [*tree.values()]
  if isinstance(tree, (tuple, list)):
    return [text for part in tree for text in texts_in(part)]
  return [tree] if isinstance(tree, str) else []


def is_address(path: object) -> bool:
  """Returns whether a path is an address, such as gs://bucket/train.npz."""
  return re.match(r'[A-Za-z][\w+.-]*://', str(path)) is not None


def expanded(path: str, written: bool = False) -> str:
  """Returns a path with the user's folder for ~.

  Raises ValueError without such a folder, for an address with one slash, and
  for one such as gs://bucket/run if something is to be `written`.
  """
  if slip := re.match('(gs|s3):(?!//)', path):
    raise ValueError(f'{path}: write {slip[0]}//bucket/run, with two slashes')
  if written and is_address(path):
    raise ValueError(
      f'{path} is an address, and only folders of this machine are written: '
      'give the path of a folder, such as a mounted bucket'
    )
  full = os.path.expanduser(path)
  if full.startswith('~'):
    raise ValueError(f'{path}: no home folder is known: write the whole path')
  return full


def existing(
  path: str | Path, what: str, exists: Callable[[Path], bool] = Path.exists, hint: str = ''
) -> Path:
  """Returns a path with ~ expanded; FileNotFoundError if it does not exist."""
  if is_address(path):
    raise FileNotFoundError(f'{what} {path} is an address: copy it to this machine')
  path = Path(path).expanduser()
  if not exists(path):
    other = ': it is a folder' if path.is_dir() else ': it is a file' * path.is_file()
    raise FileNotFoundError(f'{what} {path} not found{other}{hint}')
  return path


def cache_folder() -> Path:
  """Returns $XDG_CACHE_HOME/diffusion_jax, by default in ~/.cache.

  Raises OSError without a home folder.
  """
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  try:
    return Path(expanded(home)) / 'diffusion_jax'
  except ValueError as error:  # a container
    text = 'HOME and XDG_CACHE_HOME are not set'
    raise OSError(ENOENT, text, home) from error
