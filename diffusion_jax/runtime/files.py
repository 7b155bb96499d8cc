"""Files and folders that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError


def make_folder(workdir: str | Path) -> Path:
  """Makes the folder; raises UserError if nothing can be written there."""
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
  """Writes a file, whole or not at all."""
  draft = path.with_suffix('.json.tmp')
  draft.write_text(json.dumps(content, indent=2) + '\n')
  draft.replace(path)


def write_npz(path: Path, arrays: dict) -> None:
  """Writes an npz file, whole or not at all."""
  draft = path.with_name(f'{path.name}.tmp')
  with draft.open('wb') as file:
    np.savez(file, **arrays)
  draft.replace(path)
