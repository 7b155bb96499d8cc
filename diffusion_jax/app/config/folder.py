"""Run folders: their config.json, and the commands that make them."""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from flax import traverse_util

import diffusion_jax
from diffusion_jax.aliases import Json
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.tree import Node, as_json
from diffusion_jax.data.image_folder import SUFFIXES
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import DIFFERS, is_regular, parted, read_json, sha256, write_summed
from diffusion_jax.runtime.run_folder import Folder, RunFolder
from diffusion_jax.weights import checksums

# Ends of files of data, and files of a run that end so and may be there before its config.json.
_OF_DATA = (*SUFFIXES, '.npy', '.npz', '.csv', '.tsv', '.tar', '.parquet', '.arrow', '.safetensors')
_OF_RUNS = 'trained_on.npz', 'base.safetensors'


def read_config(workdir: RunFolder) -> Mapping | None:
  """Returns the content of a run's config.json, None if the file is missing.

  The file is read again only when it has changed. Raises UserError if its sum
  differs.
  """
  return (_read(workdir.config) or (None,))[0]


def stored_fields(workdir: RunFolder) -> Mapping[str, object]:
  """Returns {'section.field': value} of a run's config.json, {} without it."""
  return (_read(workdir.config) or ({}, {}))[1]


def _read(path):
  stamp = None
  with contextlib.suppress(OSError):  # `read_json` says why
    about = path.stat()
    stamp = about.st_mtime_ns, about.st_size, about.st_ino
  try:
    return _read_once(path.absolute(), stamp)
  except (FileNotFoundError, NotADirectoryError):
    return None


@functools.lru_cache(16)
def _read_once(path, stamp):
  content, differs = parted(read_json(path))
  if differs:
    copy, config = _saved_config(path.parent)
    changed = differences(content, config, when=f'in {copy}') if copy else ''
    advice = f'cp {copy} {path}' if copy else 'put the file back as it was'
    raise UserError(f'{path} {DIFFERS}{changed and ": "}{changed}: {advice}')
  return content, flat(content)


def _saved_config(folder: Folder) -> tuple[Path | None, Json]:
  # Returns (the file, the content) of the config in the newest checkpoint of a run, of those
  # whose sum of this file is right; (None, {}) without one.
  for step in reversed(checksums.steps_in(folder / 'checkpoints')):
    name, place = 'config/metadata', folder / 'checkpoints' / str(step)
    with contextlib.suppress(LookupError, OSError, UserError, ValueError):
      if is_regular(copy := place / name) and sha256(copy) == checksums.read_sums(place)[name]:
        return copy, read_json(copy)
  return None, {}


def check_as_saved(workdir: RunFolder, free: tuple[str, ...]) -> None:
  """Raises UserError if config.json describes another model than the checkpoints.

  free: the beginnings of fields that may differ.
  """
  copy, saved = _saved_config(workdir)
  if copy and (changed := other_than_saved(workdir, saved, free, f'in {copy}')):
    path = workdir.config
    raise UserError(f'{path} is not of the weights: {changed}. To take the copy: cp {copy} {path}')


def other_than_saved(workdir: RunFolder, saved: Mapping, free: tuple[str, ...], where: str) -> str:
  """Describes what differs between config.json and the config of a checkpoint.

  Fields that only config.json has are newer. free: see `differences`; where: the
  place of `saved`, in words.
  """
  now, before = stored_fields(workdir), flat(saved)
  return (
    differences({n: x for n, x in now.items() if n in before}, before, free, where) if now else ''
  )


def check_no_run(workdir: RunFolder, flag: str) -> None:
  """Raises UserError if workdir is a run, or a folder of data; flag: the flag that names it."""
  if read_config(workdir) is not None:
    raise UserError(f'{workdir} holds a run: give another {flag}, or remove it')
  check_no_data(workdir, flag)


def check_no_data(workdir: RunFolder, flag: str) -> None:
  """Raises UserError for a folder in which somebody keeps data, which a run would fill."""
  names = sorted(os.listdir(workdir)) if os.path.isdir(workdir) else []
  for name in names:
    if name.lower().endswith(_OF_DATA) and name[0] != '.' and name not in _OF_RUNS:
      raise UserError(
        f'{flag}={workdir} has data, {name}, and no run: give a new folder, which becomes the run'
      )


def write_config(workdir: RunFolder, config: Node, facts: Facts) -> None:
  """Writes config.json with the facts of the images; keeps what the user has allowed."""
  if processes.is_first():
    write_stored(workdir, stored_form(config, facts))
  trust.remember(workdir, config)


def write_stored(folder: Folder, content: Mapping) -> None:
  """Writes config.json, which makes a folder a run, with a sum of its content."""
  write_summed(folder / 'config.json', {**content})


def stored_form(config: Node, facts: Facts) -> dict:
  """Returns the config with the facts of the images, in JSON's types."""
  return plain(config) | {'facts': as_json(facts.as_json())}


def plain(config: Node) -> dict:
  """Returns the config in JSON's types; see `as_json`."""
  return as_json(config.to_dict())


def check_config_kept(workdir: RunFolder) -> None:
  """Raises UserError if workdir has checkpoints and no config.json."""
  if steps := checksums.steps_in(workdir.checkpoints):
    raise UserError(
      f'{workdir} has checkpoints but no config.json, which describes them. '
      f'Each holds a copy: cp {workdir.checkpoints}/{steps[-1]}/config/metadata {workdir.config}'
    )


def differences(
  before: Mapping, now: Mapping, free: tuple[str, ...] = (), when: str = 'now'
) -> str:
  """Describes what differs between nested dicts, except the fields in `free`.

  For a section with another choice only the names are compared. when: the word
  for the values of `now`.
  """
  old, new = flat(before), flat(now)
  changed = [n for n in sorted(old | new) if old.get(n) != new.get(n)]
  both = (n for n in changed if n.endswith('.name') and n in old and n in new)
  others = tuple(n.removesuffix('name') for n in both)
  return '; '.join(
    '{} is {}, {} '.format(n, *_shortly(old.get(n, 'absent'), new.get(n, 'absent'))) + when
    for n in changed
    if not n.startswith(free) and (n.removesuffix('name') in others or not n.startswith(others))
  )


LONGEST = 100  # characters of a value in a message


def _shortly(one, other):
  # Returns texts of two values; of long lists the first entries that differ, such as a table's.
  while max(len(str(one)), len(str(other))) > LONGEST:
    if not (isinstance(one, list) and isinstance(other, list)):
      return [f'{str(x):.{LONGEST}}' + '…' * (len(str(x)) > LONGEST) for x in (one, other)]
    pairs = itertools.zip_longest(one, other, fillvalue='absent')
    one, other = next(pair for pair in pairs if pair[0] != pair[1])
  return one, other


def flat(tree: Mapping) -> Json:
  """Returns {'section.field': value} of nested dicts."""
  return traverse_util.flatten_dict(tree, sep='.')


def has_checkpoint(run: RunFolder) -> bool:
  """Returns whether a run folder has checkpoints, or shared weights."""
  return run.is_shared or bool(checksums.steps_in(run.checkpoints))


def missing(path: str, run: RunFolder, needed: str = '') -> str:
  """Returns the message about a run that is missing or has no checkpoint.

  path: the field that names the run, '' for --workdir; needed: its kind. The message contains the
  command that trains the run if the folder's name tells the config.
  """
  what = f'there is no run in {run}'
  if run.config.is_file():
    what = f'the run in {run} has no checkpoint'
  command = training_command(run)
  first = f'`{command}` trains it' if command else 'train it first'
  if not path:
    return f'{what}: {first}, or give the --workdir of another'
  return (
    f'config.{path}: {what}, and {needed} is needed: {first}, or give the folder of '
    f'another by --config.{path}'
  )


def training_command(workdir: RunFolder) -> str:
  """Returns the command that trains the run in a folder, or ''.

  runs/digits_flow-unscaled is the default workdir of
  --config=configs/digits_flow.py:unscaled.
  """
  last = workdir.path.name
  name, sign, argument = last.partition('-')
  if f'configs/{name}.py' not in config_files():
    return ''
  script = sys.argv[0]
  program = f'python {script}' if script.endswith('.py') else 'diffusion-jax'
  command = f'{program} --config=configs/{name}.py{sign and ":"}{argument}'
  if workdir.path != Path('runs') / last:
    command += f' --workdir={workdir}'
  return command


def installed_configs() -> Path:
  """Returns the folder of the package's configs, of a wheel or a checkout."""
  package = Path(diffusion_jax.__path__[0])
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def config_files() -> dict[str, Path]:
  """Returns {'configs/<name>.py': file}, in the working folder or installed."""
  files: dict[str, Path] = {}
  for folder in (Path('configs'), installed_configs()):
    for path in sorted(folder.glob('*.py')):
      if path.stem not in ('__init__', 'base'):
        files.setdefault(f'configs/{path.name}', path)
  return files
