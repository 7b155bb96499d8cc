"""Drawings of many samples on one sheet."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.conditions import takes_labels
from diffusion_jax.app.model import Model
from diffusion_jax.data import drawings
from diffusion_jax.errors import UserError

_MOST = 2000  # training examples, and points


def examples(model: Model) -> np.ndarray | None:
  """Returns training examples [n, ...] to be drawn behind samples.

  Only vectors and sequences of real numbers are drawn so. None if they are not
  in memory, cannot be read, or if the command names other data than the run's.
  Of a simulator they are the first 1,000.
  """
  x, config = model.facts.x, model.config
  if x.levels or len(x.shape) > 2 or config.data is None:
    return None
  mine = {'data': folder.plain(config)['data']}
  run = folder.read_config(model.workdir) or mine
  free = *folder.FREE, *(f'data.{name}' for name in trust.PATHS)
  if folder.differences({'data': run.get('data')}, mine, free):
    return None
  if 'num_examples' in config.data:  # if some of the run's are missing
    count = min(config.data.num_examples, 1000)
    config = config.replace(data=config.data.replace(num_examples=count))
  try:
    source = datasets.source_of(config)
  except (UserError, OSError):  # Samples need no data.
    return None
  if not source.in_memory:
    return None
  count = min(len(source), _MOST)
  return source.read(np.linspace(0, len(source) - 1, count).astype(int))['x']


def sheet(
  model: Model,
  samples: np.ndarray,
  stored: Mapping[str, np.ndarray] = MappingProxyType({}),
  data: np.ndarray | None = None,
  groups: int = 1,
) -> np.ndarray:
  """Draws the first samples, as files have them, on one sheet.

  Columns are classes or prompts. stored: of `Conditions`; each picture is drawn
  between its condition and the original, if they are there. data: `examples`.
  groups: see `drawings.sheet`.
  """
  values, threes = model.facts.x, 'originals' in stored
  limit = 400 if values.levels or len(values.shape) > 1 else _MOST
  if threes:
    parts = zip(stored['conditions'], samples, stored['originals'], strict=False)
    samples = np.concatenate([np.stack(three) for three in parts])
    limit = 399  # whole threes
  samples = first_of(samples, groups, limit)
  columns = sheet_columns(model, len(samples), threes)
  how = {'data': data, 'each': threes, 'groups': groups}
  return drawings.sheet(values, samples, columns, **how)


def first_of(samples: np.ndarray, groups: int, most: int) -> np.ndarray:
  """Returns the first samples of each group, at most `most` in all."""
  each = max(1, most // groups)
  parts = samples.reshape(groups, -1, *samples.shape[1:])[:, :each]
  return parts.reshape(-1, *samples.shape[1:])[:most]


def sheet_columns(model: Model, n: int, threes: bool) -> int:
  """Returns the number of columns; each class or prompt has its own.

  threes: three pictures at a time belong together.
  """
  c, columns = model.config.sampling, int(np.ceil(n**0.5))
  if threes:
    return 3 * max(1, columns // 3)
  group = (c.prompt or '').count('|') + 1
  if group == 1 and takes_labels(model):
    group = len(c.labels) or model.facts.num_classes
  # As near to a square as multiples of the group are.
  return group * max(1, round(columns / group)) if group <= 20 else 20
