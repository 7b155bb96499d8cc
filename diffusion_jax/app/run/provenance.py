"""The settings that kept results depend on, stored in their files as JSON.

Results are samples, edits, and batches of scores. `settings` is the one rule
for all of them: a result is kept only while all that it depends on is the same.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.sampling import ALIASES
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import npz
from diffusion_jax.data.sums import digest
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.metrics.sweeps import title
from diffusion_jax.paths import texts_in
from diffusion_jax.report import results
from diffusion_jax.runtime import lock, processes, sessions
from diffusion_jax.runtime.files import parse_json, sha256
from diffusion_jax.weights import checksums, load

Settings = Json
_PACKAGES = ('diffusion_jax', 'jax', 'jaxlib', 'flax', 'numpy')


def settings(run: Run, used: Json, read: Mapping[str, str | np.ndarray]) -> Settings:
  """Returns all that a result depends on: the run, its weights, and the rest.

  used: other fields of the config, by section; a file is named with its
  SHA-256, a run with the SHA-256 of its weights, and neither with its folder. read:
  the arrays that were read, or their sums, by name; fields that only choose
  them, such as `data`, need not be in `used`.
  """
  model, (params, _) = run.model, run.checkpoint
  content = {
    'run': _base(model.workdir),
    'config_hash': roles.config_hash(model.workdir),
    'weights': checksums.of_arrays(params),
    'latents': model.latents.record(model.workdir),
    **by_content(used),
    'read': {n: x if isinstance(x, str) else digest([x]) for n, x in read.items()},
    'versions': sessions.versions(_PACKAGES),
    'computed_by': _computed_by(model),
    'matmul_precision': model.config.matmul_precision,
    'modules': _modules(folder.plain(model.config), used),
  }
  return {name: x for name, x in content.items() if x not in ({}, None)}


def of_sampling(run: Run, read: Mapping[str, str | np.ndarray], **used: Json) -> Settings:
  """Returns the `settings` of what config.sampling draws; used: more fields."""
  sampling = folder.plain(run.model.config)['sampling']
  del sampling['name'], sampling['profile']
  sampling['checkpoint'] = str(run.checkpoint[1])
  return settings(run, {'sampling': sampling, **used}, read)


def by_content(tree: Any) -> Any:
  """Returns parts of a config with contents in place of the paths in it."""
  if isinstance(tree, dict):
    return {n: x if n == 'name' else by_content(x) for n, x in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [by_content(x) for x in tree]
  if not isinstance(tree, str) or not tree:
    return tree
  path, name = os.path.expanduser(tree), _base(tree)
  if os.path.isfile(path):
    return f'{name}, sha256 {sha256(path)[:16]}'
  if os.path.isfile(os.path.join(path, 'config.json')):
    return f'{name}, {_run(path)}'
  return name if os.path.isdir(os.path.dirname(path)) else tree


def _run(path):
  with as_user_error():
    params, _, step = load.open(path)
  weights, config_hash = checksums.of_arrays(params), roles.config_hash(path)
  return f'checkpoint {step}, weights {weights}, config_hash {config_hash}'


# Sections of a run on which its results depend only through its weights.
_OF_TRAINING = 'data', 'objective', 'optimizer', 'training'


def _modules(config, used):
  # Returns the SHA-256 of the files of the user's modules.
  idle = {*roles.USES, *_OF_TRAINING}
  texts = texts_in([used, *(x for n, x in config.items() if n not in idle)])
  names = {text.partition(':')[0] for text in texts if ':' in text}
  files = {n: getattr(sys.modules.get(n), '__file__', None) for n in names}
  return {n: sha256(x)[:16] for n, x in sorted(files.items()) if x}


def _computed_by(model):
  # Returns the fields of COMPUTED_BY that the command line changed.
  stored, now = folder.stored_fields(model.workdir), model.config.flat
  return {
    field: now[field]
    for field in roles.COMPUTED_BY
    if field in now and now[field] != stored.get(field)
  }


def name_of(model: Model) -> str:
  """Returns sampling.name, or 'samples' and what differs from the run's config.

  This is samples-num_steps=20,sampler=heun, for instance.
  """
  if model.config.sampling.name:
    return model.config.sampling.name
  return _named('samples', _sampled_by(model) | _computed_by(model))


def name_of_edit(model: Model) -> str:
  """Returns edit.output, or the edit's name and the fields that are set.

  This is restore-image=a,noise=5.0,operator=blur, for instance.
  """
  edit = model.config.edit
  if edit.output:
    return edit.output
  fields = folder.flat({'edit': folder.plain(edit.without_folders())})
  del fields['edit.name'], fields['edit.output']
  defaults = model.config.defaults  # without the names of choices
  changes = {n: x for n, x in fields.items() if x != defaults.get(n)}
  return _named(edit.name, changes | _sampled_by(model))


def _sampled_by(model):
  # Returns the fields of sampling that differ from the run's config.
  stored = folder.stored_fields(model.workdir)
  defaults, changes = model.config.defaults, {}
  for field, value in model.config.flat.items():
    if field == 'sampling.profile':
      continue
    # The field of another choice than the run's has a default.
    default = defaults.get(field) if field.count('.') > 1 else ''
    if field.startswith('sampling.') and value != stored.get(field, default):
      is_file = field == 'sampling.context'
      changes[field] = Path(value).stem if is_file else value
  return changes


_SHORT = {f'{path}.{field}': short for short, (path, _, field) in ALIASES.items()}


def _named(first, changes):
  texts = {}
  for field, value in sorted(changes.items()):
    short = re.sub(r'^(edit|sampling)\.|\.name$', '', _SHORT[field] if field in _SHORT else field)
    texts[short] = store.as_text(value)
  name = f'{first}-{title(dict(sorted(texts.items())))}' if texts else first
  return re.sub(r'[^\w.,=+-]', '_', name, flags=re.ASCII)[:150]


def edit_fields(model: Model) -> Json:
  """Returns the fields of the section `edit` that change its results."""
  edit = folder.plain(model.config)['edit']
  del edit['output']
  return edit


def describe(content: Settings) -> str:
  """Returns a line with the essential settings."""
  c = content['sampling']
  line = f'settings: {content["run"]}, checkpoint {c["checkpoint"]}'
  if c.get('sampler'):
    line += f', {c["sampler"]["name"]}'
  if 'grid' in c:
    line += f', {results.steps_of(c)}'
  line += f', seed {c["seed"]}'
  if c.get('guidance_scale', 1.0) != 1.0:
    line += f', guidance {c["guidance_scale"]:g}'
  for part in ('guidance', 'classifier'):
    if c.get(part):
      line += f', {c[part]["name"]} {c[part]["scale"]:g}'
      line += ' corrected' if c[part].get('correct') else ''
  for field, value in content.get('computed_by', {}).items():
    line += f', {field} {value}'
  return line


def as_array(content: Settings) -> np.ndarray:
  """Returns settings as the array `settings` of an npz file, for `read`."""
  return np.array(json.dumps(content))


def read(path: Path) -> Settings:
  """Reads the settings in an npz file; {} if they are missing or damaged."""
  try:
    text = npz.read(path, ['settings'])['settings'].item()
    return dict(parse_json(text))
  except (OSError, TypeError, ValueError):
    return {}


def check_same(path: Path, now: Settings, what: Path, field: str) -> None:
  """Raises UserError, about `what`, if the file at `path` has other settings.

  field: of the config, with the name of the file.
  """
  before = read(path)
  changed = folder.differences(before, now, free=('run',))
  if changed:
    raise UserError(
      f'{what} has other settings: {changed if before else "it names none"}. '
      f'Delete it, or give the new one another name by --config.{field}'
    )


def check_parts(parts: Path, settings: Settings, field: str) -> bool:
  """Returns whether a folder has batches; raises as `check_same` does."""
  # A copy that a program of synchronisation made has another name.
  files = [x for x in sorted(parts.glob('*.npz')) if x.stem.isdecimal()]
  for file in files:
    check_same(file, settings, parts, field)
  return bool(files)


@contextlib.contextmanager
def making(path: Path, settings: Settings, field: str) -> Iterator[bool]:
  """Yields, in all processes, whether a file has all results; prints it.

  The file is locked meanwhile. Raises UserError, about `field` as in
  `check_same`, if another process makes it, and if the file or the batches in
  <name>.parts have other settings.
  """
  print(describe(settings))
  with lock.hold(path.parent, path.name, f'--config.{field}'):
    done = processes.is_first() and _is_done(path, settings, field)
    yield bool(processes.broadcast([done])[0])


def _is_done(path, settings, field):
  if path.exists():
    check_same(path, settings, path, field)
  if check_parts(path.with_suffix('.parts'), settings, field):
    return False
  if path.exists():
    print(f'{path} is there already, made with these settings')
  return path.exists()


def _base(workdir):
  return os.path.basename(os.path.abspath(workdir))
