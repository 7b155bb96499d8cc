"""Reads and writes the run folder: config.json, and which config wins.

`train` refuses to continue a run under a config that would give another result.
The other modes take RUN_SECTIONS from the run, the rest from the command line.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build import audit, own_parts, ranges
from diffusion_jax.errors import UserError

# Sections that every mode but `train` reads from the config.json of a run.
RUN_SECTIONS = (
  'data',
  'latent',
  'schedule',
  'network',
  'conditioning',
  'objective',
)

# Fields that say how the network is computed: programs that draw samples or
# measure take them from the command line, and from the run where they are not
# given there. Parameters are float32 whatever they say.
COMPUTED_BY = 'network.dtype', 'network.attention'

# Fields that may change between two starts of a run: its result stays.
_FREE = (
  'sampling.',
  'evaluation.',
  'edit.',
  'noise.',
  'convert.',
  'average.',
  'report.',
  'compilation_cache',
  'stored_in',
  'data.data_dir',
  'network.remat',
  'network.matmul_precision',
  'data.num_threads',
  'training.num_steps',
  'training.log_every',
  'training.checkpoint_every',
  'training.sample_every',
  'training.keep_',
  'training.snapshot_every',
  'training.metrics_',
  'training.evaluate_',
  'training.mesh',
  'training.accumulate',
  'training.steps_per_call',
  'training.resume',
  'training.skip_nonfinite',
  'training.heartbeat_timeout',
)


def prepare(workdir: str | Path) -> Path:
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


def read_config(workdir: str | Path) -> dict | None:
  """Reads config.json of a run; None where there is none."""
  path = Path(workdir) / 'config.json'
  try:
    found = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error})') from error
  if not isinstance(found, dict):
    raise UserError(
      f'{path} is not the config of a run: it holds a JSON '
      f'{type(found).__name__}, not an object'
    )
  return found


def write_config(workdir: Path, config: ConfigDict) -> None:
  """Writes config.json, whole or not at all."""
  write_json(workdir / 'config.json', plain(config))


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


def plain(config: ConfigDict) -> dict:
  """Returns the config as JSON gives it: dicts, lists, numbers, text.

  With the defaults of the constructors: a run keeps those it began with.
  """
  return json.loads(json.dumps(audit.complete(config).to_dict()))


def hparams(stored: dict) -> dict:
  """Returns what a training depends on, {'section.field': value}."""
  return {
    name: value if isinstance(value, (bool, float, int, str)) else str(value)
    for name, value in _flat(stored).items()
    if not name.startswith(_FREE[:7])
  }


def config_hash(workdir: str | Path) -> str:
  """Hashes the config of a run without fields that do not change its result."""
  fields = _flat(read_config(workdir) or {})
  fields = {k: x for k, x in fields.items() if not k.startswith(_FREE)}
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_same_run(workdir: Path, config: ConfigDict) -> None:
  """Raises UserError if the run in workdir has another config.

  A folder with a config.json or checkpoints is a run.
  """
  found = read_config(workdir)
  if found is None:
    check_config_kept(workdir)
    return
  changed = differences(*comparable(found, config), _FREE)
  if changed:
    raise UserError(
      f'{workdir} holds a run with another config: {changed}. '
      'Give another --workdir, or --config.training.resume=force to continue it'
    )


def comparable(found: dict, config: ConfigDict) -> tuple[dict, dict]:
  """Returns the stored and the given config without fields of no effect.

  Older versions stored a value for every field; some also lack new ones.
  """
  now = config.copy_and_resolve_references()
  stored = config.copy_and_resolve_references()
  try:
    found = audit.rename_fields(found)
    stored.update(_tuples(found))
    for each in (stored, now):
      audit.drop_unused(each, RUN_SECTIONS)
    kept, now = plain(stored), plain(now)
  except (KeyError, TypeError, AttributeError, UserError):
    return found, plain(config)
  for section, fields in found.items():  # what it lacks is a difference
    if isinstance(fields, dict):
      kept[section] = {n: x for n, x in kept[section].items() if n in fields}
  return kept, now


def check_config_kept(workdir: str | Path) -> None:
  """Raises UserError if workdir has checkpoints and no config.json."""
  names = [path.name for path in Path(workdir).glob('checkpoints/*')]
  steps = [int(name) for name in names if name.isdecimal()]
  if steps:
    raise UserError(
      f'{workdir} has checkpoints but no config.json, which says what they are '
      f'of. Each holds a copy: cp {workdir}/checkpoints/{max(steps)}/config/'
      f'metadata {workdir}/config.json'
    )


def differences(found: dict, now: dict, free: tuple[str, ...] = ()) -> str:
  """Describes what differs between nested dicts, outside fields of `free`."""
  old, new = _flat(found), _flat(now)
  return '; '.join(
    f'{name} is {old.get(name, "absent")}, {new.get(name, "absent")} now'
    for name in sorted(old | new)
    if old.get(name) != new.get(name) and not name.startswith(free)
  )


def check_overrides(mode: str, overrides: dict, workdir: str) -> None:
  """Raises UserError if a mode that reads a run is to change its config.

  Overrides that repeat the values of the run are accepted, and those of
  COMPUTED_BY by the modes that compute with the network.
  """
  if mode == 'convert' and not overrides.get('convert.to'):
    given = (*RUN_SECTIONS, 'sampling')
    fixed = [n for n in overrides if n.split('.')[0] in given]
    # Of the data, the weights determine the shape of images alone; they do not
    # say whose latents are diffused.
    fixed = [
      n
      for n in fixed
      if n != 'latent.run'
      and (n == 'data.image_shape' or not n.startswith('data.'))
    ]
    if fixed:
      raise UserError(
        f'--config.{fixed[0]} cannot be given in --mode=convert: it comes with '
        'the weights'
      )
    return
  modes = 'sample', 'edit', 'evaluate', 'average', 'report', 'convert'
  if mode not in modes:
    return
  found = _flat(audit.rename_fields(read_config(workdir) or {}))
  free = COMPUTED_BY if mode in ('sample', 'edit', 'evaluate') else ()
  fixed = [
    key
    for key, value in overrides.items()
    if key.split('.')[0] in RUN_SECTIONS
    and key not in free
    and json.loads(json.dumps(value)) != found.get(key)
  ]
  if fixed:
    raise UserError(
      f'--config.{fixed[0]} cannot change in --mode={mode}: '
      f'{", ".join(RUN_SECTIONS)} come from the config.json of the run'
    )


def forget_computed_by(config: Any, overrides: dict) -> None:
  """Resets the fields of COMPUTED_BY that only the config file has set."""
  for field in COMPUTED_BY:
    if field not in overrides:
      config.update_from_flattened_dict({field: None})


def run_config(
  workdir: str | Path,
  config: ConfigDict,
  sections: tuple[str, ...] = RUN_SECTIONS,
  own: tuple[str, ...] = (),
) -> Any:
  """Returns config with `sections` replaced by those of the run in workdir.

  own: fields of the network that stay where config has a value.
  """
  found = read_config(workdir)
  if found is None:
    check_config_kept(workdir)
    raise UserError(
      f'there is no run in {workdir}: train first, or give its --workdir'
    )
  found = audit.rename_fields({'latent': {'run': '', 'shape': []}} | found)
  merged: Any = config.copy_and_resolve_references()
  for section in sections:
    try:
      set_fields(merged, section, _tuples(found[section]))
    except (KeyError, TypeError, AttributeError) as error:
      raise UserError(
        f'{section} in {workdir}/config.json is of another version of this '
        f'program ({error})'
      ) from error
  given: Any = config
  for name in (field.removeprefix('network.') for field in own):
    if given.network[name] is not None:
      merged.network[name] = given.network[name]
  try:
    ranges.check(merged)
    audit.drop_unused(merged, sections)
  except UserError as error:
    raise UserError(
      f'{error} (in {workdir}/config.json, or as it was given)'
    ) from error
  return merged


def set_fields(config: Any, section: str, fields: dict) -> None:
  """Sets fields of a section, new ones only for a part of the user's own.

  Raises KeyError, TypeError or AttributeError for fields that do not fit.
  """
  own = any(
    own_parts.names_one(f'{section}.{name}', value)
    for name, value in fields.items()
  )
  with config.unlocked() if own else contextlib.nullcontext():
    config[section].update(fields)


def _tuples(tree):
  # JSON has no tuples, configs have no lists
  if isinstance(tree, dict):
    return {key: _tuples(value) for key, value in tree.items()}
  return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree


def _flat(tree: dict, prefix: str = '') -> dict:
  # {'section.field': value} of nested dicts
  found = {}
  for key, value in tree.items():
    name = f'{prefix}{key}'
    if isinstance(value, dict):
      found.update(_flat(value, f'{name}.'))
    else:
      found[name] = value
  return found
