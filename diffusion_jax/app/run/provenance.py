"""The settings that samples depend on, stored in their npz file as JSON."""

import json
import os
import re
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.model import Model
from diffusion_jax.data import npz
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.sweeps import title
from diffusion_jax.runtime import processes, sessions
from diffusion_jax.runtime.files import parse_json
from diffusion_jax.training import checksums, stored_weights

Settings = Json
_PACKAGES = ('diffusion_jax', 'jax', 'jaxlib', 'flax', 'numpy')


def settings(model: Model, params: Params, step: int) -> Settings:
  """Returns the settings that images depend on, with runs' names, not paths."""
  sampling = folder.plain(model.config)['sampling']
  del sampling['name']
  sampling['checkpoint'] = str(step)
  if sampling['context']:
    rows = checksums.of_arrays(npz.read_array(sampling['context'], 'context'))
    sampling['context'] = f'{Path(sampling["context"]).name}, checksum {rows}'
  for part in ('guidance', 'classifier'):
    section = sampling.get(part)
    if section and section.get('run'):
      step_of_run = stored_weights.find_step(section['run'])
      section['run'] = f'{_base(section["run"])}, checkpoint {step_of_run}'
  content = {
    'run': _base(model.workdir),
    'config_hash': folder.config_hash(model.workdir),
    'weights': checksums.of_arrays(params),
    'sampling': sampling,
    'versions': sessions.versions(_PACKAGES),
  }
  computed_by = _computed_by(model)
  return content | ({'computed_by': computed_by} if computed_by else {})


def _computed_by(model):
  # Returns the fields of COMPUTED_BY that the command line changed.
  stored = folder.flat(folder.read_config(model.workdir) or {})
  now = folder.flat(folder.plain(model.config))
  return {
    field: now[field]
    for field in folder.COMPUTED_BY
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
  fields = folder.flat({'edit': edit_fields(model)})
  del fields['edit.name']
  defaults = store.defaults(model.config)  # without the names of choices
  changes = {n: x for n, x in fields.items() if x != defaults.get(n)}
  return _named(edit.name, _without('edit', changes) | _sampled_by(model))


def _sampled_by(model):
  # Returns the fields of sampling that differ from the run's config.
  stored = folder.flat(folder.read_config(model.workdir) or {})
  defaults, changes = store.defaults(model.config), {}
  for field, value in folder.flat(folder.plain(model.config)).items():
    # The field of another choice than the run's has a default.
    default = defaults.get(field) if field.count('.') > 1 else ''
    if field.startswith('sampling.') and value != stored.get(field, default):
      is_file = field == 'sampling.context'
      changes[field] = Path(value).stem if is_file else value
  return _without('sampling', changes)


def _without(section, changes):
  return {
    field.removeprefix(f'{section}.').removesuffix('.name'): value
    for field, value in changes.items()
  }


def _named(first, changes):
  texts = {field: store.as_text(changes[field]) for field in sorted(changes)}
  name = f'{first}-{title(texts)}' if texts else first
  return re.sub(r'[^\w.,=+-]', '_', name, flags=re.ASCII)[:150]


def edit_fields(model: Model) -> Json:
  """Returns the section `edit`, with the names of its files, not paths."""
  edit = folder.plain(model.config)['edit']
  del edit['output']
  for section in (edit, edit.get('operator') or {}):
    for field in ('image', 'image2', 'mask'):
      if section.get(field):
        section[field] = Path(section[field]).name
  return edit


def describe(content: Settings) -> str:
  """Returns a line with the essential settings."""
  c = content['sampling']
  line = f'settings: {content["run"]}, checkpoint {c["checkpoint"]}'
  if c.get('sampler'):
    line += f', {c["sampler"]["name"]}'
  if c.get('respacing'):
    line += f', respacing {c["respacing"]}'
  elif 'num_steps' in c:
    line += f', {c["num_steps"]} steps'
  line += f', seed {c["seed"]}'
  if c.get('guidance_scale', 1.0) != 1.0:
    line += f', guidance {c["guidance_scale"]:g}'
  for part in ('guidance', 'classifier'):
    if c.get(part):
      line += f', {c[part]["name"]} {c[part]["scale"]:g}'
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


def is_done(path: Path, settings: Settings, field: str) -> bool:
  """Returns, in all processes, whether a file has all results; prints it.

  Raises UserError, about `field` as in `check_same`, if the file or the batches
  in <name>.parts have other settings.
  """
  print(describe(settings))
  done = processes.is_first() and _is_done(path, settings, field)
  return bool(processes.broadcast([done])[0])


def _is_done(path, settings, field):
  parts = path.with_suffix('.parts')
  if path.exists():
    check_same(path, settings, path, field)
  files = sorted(parts.glob('*.npz'))
  if files:
    check_same(files[0], settings, parts, field)
  elif path.exists():
    print(f'{path} is there already, made with these settings')
    return True
  return False


def _base(workdir):
  return os.path.basename(os.path.abspath(workdir))
