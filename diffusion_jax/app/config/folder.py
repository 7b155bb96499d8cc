"""Run folders: their config.json, and the commands that make them."""

import contextlib
import functools
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
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import checksums

# Ends of files of data, and files of a run that end so and may be there before its config.json.
_OF_DATA = (*SUFFIXES, '.npy', '.npz', '.csv', '.tsv', '.tar', '.parquet', '.arrow', '.safetensors')
_OF_RUNS = 'trained_on.npz', 'base.safetensors'


def read_config(workdir: Path) -> Mapping | None:
  """Returns the content of a run's config.json, None if the file is missing.

  The file is read again only when it has changed. Raises UserError if its sum
  differs.
  """
  return (_read(workdir / 'config.json') or (None,))[0]


def stored_fields(workdir: Path) -> Mapping[str, object]:
  """Returns {'section.field': value} of a run's config.json, {} without it."""
  return (_read(workdir / 'config.json') or ({}, {}))[1]


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
    copy, config = saved_config(path.parent)
    changed = differences(content, config, when=f'in {copy}') if copy else ''
    advice = f'cp {copy} {path}' if copy else 'put the file back as it was'
    raise UserError(f'{path} {DIFFERS}{changed and ": "}{changed}: {advice}')
  return content, flat(content)


def saved_config(workdir: Path) -> tuple[Path | None, Json]:
  """Returns (the file, the content) of the config that the newest checkpoint has.

  It is of the newest whose sum of this file is right; (None, {}) without one.
  """
  for step in reversed(checksums.steps_in(workdir / 'checkpoints')):
    name, place = 'config/metadata', workdir / 'checkpoints' / str(step)
    with contextlib.suppress(LookupError, OSError, UserError, ValueError):
      if is_regular(copy := place / name) and sha256(copy) == checksums.read_sums(place)[name]:
        return copy, read_json(copy)
  return None, {}


def check_as_saved(workdir: Path, free: tuple[str, ...]) -> None:
  """Raises UserError if config.json describes another model than the checkpoints.

  free: the beginnings of fields that may differ.
  """
  path = workdir / 'config.json'
  copy, saved = saved_config(workdir)
  if copy and (changed := other_than_saved(workdir, saved, free, f'in {copy}')):
    raise UserError(f'{path} is not of the weights: {changed}. To take the copy: cp {copy} {path}')


def other_than_saved(workdir: Path, saved: Mapping, free: tuple[str, ...], where: str) -> str:
  """Describes what differs between config.json and the config of a checkpoint.

  Fields that only config.json has are newer. free: see `differences`; where: the
  place of `saved`, in words.
  """
  now, before = stored_fields(workdir), flat(saved)
  return (
    differences({n: x for n, x in now.items() if n in before}, before, free, where) if now else ''
  )


def check_no_run(workdir: Path, flag: str) -> None:
  """Raises UserError if workdir is a run, or a folder of data; flag: the flag that names it."""
  if read_config(workdir) is not None:
    raise UserError(f'{workdir} holds a run: give another {flag}, or remove it')
  check_no_data(workdir, flag)


def check_no_data(workdir: Path, flag: str) -> None:
  """Raises UserError for a folder in which somebody keeps data, which a run would fill."""
  names = sorted(x.name for x in workdir.iterdir()) if workdir.is_dir() else []
  for name in names:
    if name.lower().endswith(_OF_DATA) and name[0] != '.' and name not in _OF_RUNS:
      raise UserError(
        f'{flag}={workdir} has data, {name}, and no run: give a new folder, which becomes the run'
      )


def write_config(workdir: Path, config: Node, facts: Facts) -> None:
  """Writes config.json with the facts of the images; keeps what the user has allowed."""
  if processes.is_first():
    write_stored(workdir, stored_form(config, facts))
  trust.remember(workdir, config)


def write_stored(workdir: Path, content: Mapping) -> None:
  """Writes config.json, which makes a folder a run, with a sum of its content."""
  write_summed(workdir / 'config.json', {**content})


def stored_form(config: Node, facts: Facts) -> dict:
  """Returns the config with the facts of the images, in JSON's types."""
  return plain(config) | {'facts': as_json(facts.as_json())}


def plain(config: Node) -> dict:
  """Returns the config in JSON's types; see `as_json`."""
  return as_json(config.to_dict())


def check_config_kept(workdir: Path) -> None:
  """Raises UserError if workdir has checkpoints and no config.json."""
  if steps := checksums.steps_in(workdir / 'checkpoints'):
    raise UserError(
      f'{workdir} has checkpoints but no config.json, which describes them. '
      f'Each holds a copy: cp {workdir}/checkpoints/{steps[-1]}/config/'
      f'metadata {workdir}/config.json'
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
    f'{n} is {old.get(n, "absent")}, {new.get(n, "absent")} {when}'
    for n in changed
    if not n.startswith(free) and (n.removesuffix('name') in others or not n.startswith(others))
  )


def flat(tree: Mapping) -> Json:
  """Returns {'section.field': value} of nested dicts."""
  return traverse_util.flatten_dict(tree, sep='.')


def has_checkpoint(run: RunFolder) -> bool:
  """Returns whether a run folder has checkpoints, or shared weights."""
  return run.is_shared or bool(checksums.steps_in(run.path / 'checkpoints'))


def missing(path: str, run: RunFolder, needed: str = '') -> str:
  """Returns the message about a run that is missing or has no checkpoint.

  path: the field that names the run, '' for --workdir; needed: its kind. The message contains the
  command that trains the run if the folder's name tells the config.
  """
  what = f'there is no run in {run}'
  if run.config.is_file():
    what = f'the run in {run} has no checkpoint'
  command = training_command(run.path)
  first = f'`{command}` trains it' if command else 'train it first'
  if not path:
    return f'{what}: {first}, or give the --workdir of another'
  return (
    f'config.{path}: {what}, and {needed} is needed: {first}, or give the folder of '
    f'another by --config.{path}'
  )


def training_command(workdir: Path) -> str:
  """Returns the command that trains the run in a folder, or ''.

  runs/digits_flow-unscaled is the default workdir of
  --config=configs/digits_flow.py:unscaled.
  """
  name, sign, argument = workdir.name.partition('-')
  if f'configs/{name}.py' not in config_files():
    return ''
  script = sys.argv[0]
  program = f'python {script}' if script.endswith('.py') else 'diffusion-jax'
  command = f'{program} --config=configs/{name}.py{sign and ":"}{argument}'
  if workdir != Path('runs') / workdir.name:
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
