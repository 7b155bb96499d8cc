"""Run folders: config.json, which config wins, and the runs that a run needs.

A training refuses to continue a run with a config that would change its result.
All other modes take the model from the run; the command line says how it is
used.
"""

import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args, get_type_hints

from flax import traverse_util

import diffusion_jax
from diffusion_jax.aliases import Json
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.sections import Training
from diffusion_jax.data.sources import Facts
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime import buckets, processes
from diffusion_jax.runtime.files import read_json, write_json
from diffusion_jax.weights import checksums, share

# Sections that say how a model is used, and a field of no section that does; all
# others describe the model.
USES = (
  *('evaluation', 'sampling', 'report', 'edit', 'average', 'convert', 'serve'),
  'compilation_cache',
)

# Fields that may change between two starts of a training, as they do not change
# its result.
FREE = (
  *(f'{section}.' for section in USES),
  'compilation_cache',
  'matmul_precision',
  'data.cache',
  'data.check',
  'data.data_dir',
  'data.workers',
  'latent.path',
  'network.remat',
  *(
    f'training.{name}'
    for name, kind in get_type_hints(Training, include_extras=True).items()
    if sections.FREE in get_args(kind)
  ),
)

# Fields that say how the network is computed, which the command line may change
# for a trained run. Parameters are always float32.
COMPUTED_BY = ('network.dtype', 'network.attention', 'matmul_precision', 'training.mesh')


def read_config(workdir: str | Path) -> Mapping | None:
  """Returns the content of a run's config.json, None if the file is missing.

  The file is read again only when it has changed.
  """
  return (_read(buckets.folder(workdir) / 'config.json') or (None,))[0]


def stored_fields(workdir: str | Path) -> Mapping[str, object]:
  """Returns {'section.field': value} of a run's config.json, {} without it."""
  return (_read(buckets.folder(workdir) / 'config.json') or ({}, {}))[1]


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
  content = read_json(path)
  return content, flat(content)


def check_no_run(workdir: Path, flag: str) -> None:
  """Raises UserError if workdir is a run; flag: the flag that names it."""
  if read_config(workdir) is not None:
    raise UserError(f'{workdir} holds a run: give another {flag}, or remove it')


def write_config(workdir: Path, config: Node, facts: Facts) -> None:
  """Writes config.json with the facts of the images; keeps what the user has allowed."""
  if processes.is_first():
    write_json(workdir / 'config.json', stored_form(config, facts))
  trust.remember(workdir, config)


def stored_form(config: Node, facts: Facts) -> dict:
  """Returns the config with the facts of the images, in JSON's types."""
  return plain(config) | {'facts': json.loads(json.dumps(facts.as_json()))}


def plain(config: Node) -> dict:
  """Returns the config in JSON's types: dicts, lists, numbers, strings."""
  return json.loads(json.dumps(config.to_dict()))


def hparams(stored: dict) -> Json:
  """Returns {'section.field': value} of what a training depends on."""
  return {
    name: value if isinstance(value, (bool, float, int, str)) else str(value)
    for name, value in flat(stored).items()
    if name.partition('.')[0] not in USES
  }


def config_hash(workdir: str | Path) -> str:
  """Hashes the fields of a run's config that change its result."""
  fields = {k: x for k, x in stored_fields(workdir).items() if not k.startswith(FREE)}
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_of(config: Node) -> dict:
  """Returns the fields of the section `data` that its examples depend on."""
  data = plain(config)['data'] or {}
  return {n: x for n, x in data.items() if f'data.{n}' not in FREE}


def check_same_run(workdir: str | Path, config: Node, facts: Facts | None = None) -> None:
  """Raises UserError if the run in workdir has another config, or other data.

  A folder with a config.json or checkpoints is a run. facts: None before the
  data are read; what follows from them is not compared then, nor is what the
  run does not know of them. Nothing is, if training.resume is 'force'.
  """
  if config.training.resume == 'force':
    return
  before = read_config(workdir)
  if before is None:
    check_config_kept(workdir)
    return
  known = before.get('facts') or {}
  before = _with_newer_fields(before, config) | {'facts': known}
  now, free = plain(config) | {'facts': known}, (*FREE, 'conditioning.')
  if facts is not None:
    now, free = stored_form(config, facts), FREE
    for name in {'examples', 'checksum'} - {*known}:
      now['facts'].pop(name, None)
  changed = differences(before, now, free)
  if changed:
    facts_only = all(x.startswith('facts.') for x in changed.split('; '))
    what = 'other data' if facts_only else 'another config'
    raise UserError(
      f'{workdir} holds a run with {what}: {changed}. '
      'Give another --workdir, or --config.training.resume=force to continue it'
    )


def _with_newer_fields(before, section):
  # Returns a run's config with the fields that it lacks, if they have defaults.
  if before.get('name', section.choice) != section.choice:
    return before
  signature, more = section.signature, {}
  for name, value in section.items():
    old = before.get(name)
    if isinstance(value, Node) and isinstance(old, Mapping):
      more[name] = _with_newer_fields(old, value)
    elif name not in before and name in signature and value == signature[name].default:
      more[name] = json.loads(json.dumps(value))
  return {**before, **more}


def check_config_kept(workdir: str | Path) -> None:
  """Raises UserError if workdir has checkpoints and no config.json."""
  if steps := checksums.steps_in(Path(workdir) / 'checkpoints'):
    raise UserError(
      f'{workdir} has checkpoints but no config.json, which describes them. '
      f'Each holds a copy: cp {workdir}/checkpoints/{steps[-1]}/config/'
      f'metadata {workdir}/config.json'
    )


def differences(before: Mapping, now: Mapping, free: tuple[str, ...] = ()) -> str:
  """Describes what differs between nested dicts, except the fields in `free`.

  For a section with another choice only the names are compared.
  """
  old, new = flat(before), flat(now)
  changed = [n for n in sorted(old | new) if old.get(n) != new.get(n)]
  both = (n for n in changed if n.endswith('.name') and n in old and n in new)
  others = tuple(n.removesuffix('name') for n in both)
  return '; '.join(
    f'{n} is {old.get(n, "absent")}, {new.get(n, "absent")} now'
    for n in changed
    if not n.startswith(free) and (n.removesuffix('name') in others or not n.startswith(others))
  )


def flat(tree: Mapping) -> Json:
  """Returns {'section.field': value} of nested dicts."""
  return traverse_util.flatten_dict(tree, sep='.')


# Runs that another run needs.

# The fields that name another run, and the kind of run that each needs.
PREDECESSORS = {
  'latent.run': 'an autoencoder, such as configs/digits_autoencoder.py,',
  'training.init_from': 'a model with the same network',
  'training.teacher': 'a diffusion model of the same images',
  'sampling.guidance.run': 'a model of the same images',
  'sampling.classifier.run': 'a classifier, such as configs/digits_classifier.py,',
}


def check_predecessors(config: Node, mode: str, workdir: str | Path) -> None:
  """Raises UserError for a missing run that a mode reads, and for a stranger's."""
  refuse(_missing_runs(config, mode, Path(workdir)))


def _missing_runs(config, mode, workdir):
  if mode == 'train' and share.exist(workdir):
    yield (
      f'{workdir} has shared weights and no state to continue: give another --workdir, and '
      f'--config.training.init_from={workdir} to begin with them'
    )
  for field in _fields_read(config, mode, workdir):
    run, section = config.at(field), field.removesuffix('.run')
    if not run and 'run' in (config.at(section) or ()):
      yield f'config.{field} is not set: {PREDECESSORS[field]} is needed'
    trust.check_paths((field, run))
    place = buckets.folder(run or '')
    if run and not ((place / 'config.json').is_file() and has_checkpoint(place)):
      yield missing(field, run)


def _fields_read(config, mode, workdir):
  """Yields the fields of PREDECESSORS that a mode reads.

  A training that has begun does not need the weights it began with, nor the run
  of its autoencoder, because it keeps a copy.
  """
  c = config.training
  if mode == 'train':
    yield 'training.teacher'
  if mode == 'train' and not has_checkpoint(workdir):
    yield 'training.init_from'
  if not (workdir / 'latent.json').exists():
    yield 'latent.run'
  if mode != 'train' or c.sample_every or c.metrics_every or c.keep_best:
    yield from ('sampling.guidance.run', 'sampling.classifier.run')


def has_checkpoint(workdir: Path) -> bool:
  """Returns whether a run folder has checkpoints, or shared weights."""
  steps = checksums.steps_in(workdir / 'checkpoints')
  return share.exist(workdir) or bool(steps)


def missing(path: str, run: str | Path) -> str:
  """Returns the message about a run that is missing or has no checkpoint.

  path: the field that names the run, '' for --workdir. The message contains the
  command that trains the run if the folder's name tells the config.
  """
  folder, what = Path(run), f'there is no run in {run}'
  if (buckets.folder(run) / 'config.json').is_file():
    what = f'the run in {run} has no checkpoint'
  command = training_command(folder)
  first = f'`{command}` trains it' if command else 'train it first'
  if not path:
    return f'{what}: {first}, or give the --workdir of another'
  return (
    f'config.{path}: {what}, and {PREDECESSORS[path]} is needed: {first}, or give the folder of '
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
