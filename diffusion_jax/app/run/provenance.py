"""The settings that a kept result depends on, and the file names that follow from them.

Samples, edits and scores store their `settings` as JSON, and the names of their files end in a
hash of these, so that other settings have another file. Losses of exact denoisers, features of
real images and latents store their settings too.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, overrides, trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.sampling import ALIASES
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import npz, reads, sums
from diffusion_jax.data.code_sums import of_package
from diffusion_jax.data.sums import digest, of_path
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.paths import READ, RUN, texts_in
from diffusion_jax.report import record, sampling_words
from diffusion_jax.runtime import per_example, processes, run_folder, start_up
from diffusion_jax.runtime.files import DIFFERS, is_regular, parse_json, read_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import checksums, load

Settings = Json
# The packages that compute numbers of results; see `trust.code_of` for those of the user's parts.
_PACKAGES = (
  *('diffusion_jax', 'jax', 'jaxlib', 'flax', 'numpy'),
  *('diffrax', 'optax', 'pillow', 'scikit-learn', 'scipy'),
)
_MOST = 2**26  # bytes of the settings in an npz file, which may be a stranger's


def made_of(config: Node, content: Json, *code: object) -> Json:
  """Returns all that a kept thing is made of, from its fields and sums of what was read.

  A file, a folder and another run that the config reads are named with sums of
  what they hold, without where they are; data are summed where they are read.
  Versions and precision are added, a sum of this package's code, and a sum of each
  of the user's own modules that content or `code`, sections, name.
  """
  data = config.data.paths_read(READ) if config.data else ()
  paths = {text: '' for _, value in data for text in texts_in(value)}
  for use in (READ, RUN):
    rest = config.replace(data=None).paths_read(use)
    paths |= {text: use for _, value in rest for text in texts_in(value)}
  found = {
    **by_content(content, paths),
    'versions': start_up.versions(_PACKAGES),
    'code': of_package(),
    'matmul_precision': config.matmul_precision,
    'modules': trust.code_of(content, *code),
  }
  return {name: x for name, x in found.items() if x not in ({}, None)}


def settings(run: Run, used: Json, read: Mapping[str, str | np.ndarray]) -> Settings:
  """Returns all that a result of a run is made of: its weights, and the rest.

  used: other fields of the config, by section; see `made_of`. read: the arrays
  that were read, or their sums, by name; fields that only choose them, such as
  `data`, need not be in `used`.
  """
  model, (params, _) = run.model, run.checkpoint
  content = {
    'run': _base(model.run),
    'config_hash': roles.config_hash(model.run),
    'weights': checksums.of_arrays(params),
    'latents': model.latents.record(model.run),
    **used,
    'read': {n: x if isinstance(x, str) else digest([x]) for n, x in read.items()},
    'computed_by': _computed_by(model),
  }
  sections = folder.plain(model.config).items()
  return made_of(model.config, content, [x for n, x in sections if n not in _IDLE])


def of_sampling(run: Run, read: Mapping[str, str | np.ndarray], **used: Json) -> Settings:
  """Returns the `settings` of what config.sampling draws; used: more fields."""
  sampling = folder.plain(run.model.config)['sampling']
  del sampling['name'], sampling['profile']
  sampling['checkpoint'] = str(run.checkpoint[1])
  return settings(run, {'sampling': sampling, **used}, read)


def of_scores(drawn: Path, used: Json, arrays: Mapping[str, np.ndarray]) -> Settings:
  """Returns the `settings` of scores of a file of samples; used, arrays: what they add."""
  content = read(drawn)
  sums = content.get('read', {}) | {n: digest([x]) for n, x in arrays.items()}
  modules = content.get('modules', {}) | trust.code_of(used)
  return {**content, **by_content(used), 'read': sums, 'modules': modules}


def by_content(tree: Any, paths: Mapping[str, str] | None = None) -> Any:
  """Returns parts of a config with sums of contents in place of the paths in it.

  paths: the strings that are paths, and their uses (`paths.use_of`), '' for those
  whose content is summed elsewhere; None: all that name something, but no splits.
  """
  if isinstance(tree, dict):
    return {n: x if n == 'name' else by_content(x, paths) for n, x in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [by_content(x, paths) for x in tree]
  is_path = isinstance(tree, str) and tree not in ('', 'train', 'validation', 'test')
  if not is_path or paths is not None and tree not in paths:
    return tree
  use, name = READ if paths is None else paths[tree], _base(tree)
  if not use:
    return name
  path = str(RunFolder.at(tree).path) if use == RUN else os.path.expanduser(tree)
  if os.path.isfile(os.path.join(path, 'config.json')):
    return f'{name}, {_run(RunFolder.at(path, written=False))}'
  if content := of_path(path):
    reads.leave_out([path])
    return f'{name}, {content}'
  return tree


def _run(run):
  config = store.open_run(run)
  with as_user_error():
    params, _, step = load.open(run)
  weights, config_hash = checksums.of_arrays(params), roles.config_hash(run)
  code = sums.of_json(trust.code_of(config))
  return f'checkpoint {step}, weights {weights}, config_hash {config_hash}, code {code}'


# Sections of a run whose code its results depend on only through weights, or `used`.
_IDLE = *roles.USES, 'data', 'optimizer', 'training'


def _computed_by(model):
  # Returns the fields of COMPUTED_BY that the command line changed.
  stored, now = folder.stored_fields(model.run), model.config.flat
  return {
    field: now[field]
    for field in roles.COMPUTED_BY
    if field in now and now[field] != stored.get(field)
  }


def name_of(model: Model, first: str = 'samples', fields: tuple[str, ...] = ('',)) -> str:
  """Returns `first` and what differs from the run's config, in fields that begin so.

  This is samples-num_steps=20,sampler=heun, for instance.
  """
  changes = _sampled_by(model) | _computed_by(model)
  return _named(first, {n: x for n, x in changes.items() if n.startswith(fields)})


def name_of_edit(model: Model) -> str:
  """Returns an edit's name and the fields that are set.

  This is restore-image=a,noise=5.0,operator=blur, for instance.
  """
  edit = model.config.edit
  fields = folder.flat({'edit': folder.plain(edit.without_folders())})
  del fields['edit.name'], fields['edit.output']
  defaults = model.config.default_fields  # without the names of choices
  changes = {n: x for n, x in fields.items() if x != defaults.get(n)}
  return _named(edit.name, changes | _sampled_by(model))


def _sampled_by(model):
  # Returns the fields of sampling that differ from the run's config.
  stored = folder.stored_fields(model.run)
  defaults, changes = model.config.default_fields, {}
  for field, value in model.config.flat.items():
    if field == 'sampling.profile':
      continue
    # The field of another choice than the run's has a default.
    default = defaults.get(field) if field.count('.') > 1 else ''
    if field.startswith('sampling.') and value != stored.get(field, default):
      is_file = field == 'sampling.context'
      changes[field] = Path(value).stem if is_file else value
  return changes


SHORT = {f'{path}.{field}': short for short, (path, _, field) in ALIASES.items()}


def title(changes: Mapping[str, object]) -> str:
  """Returns 'num_steps=2,weights.decay=0.5' for the values of fields."""
  return ','.join(f'{field}={overrides.as_text(value)}' for field, value in changes.items())


def _named(first, changes):
  texts = {}
  for field, value in sorted(changes.items()):
    short = re.sub(r'^(edit|sampling)\.|\.name$', '', SHORT[field] if field in SHORT else field)
    texts[short] = overrides.as_text(value)
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
  line = ', '.join(
    [line, *sampling_words.in_words(c, roles.UNSAID['sampling']), f'seed {c["seed"]}']
  )
  for field, value in content.get('computed_by', {}).items():
    line += f', {field} {value}'
  return line


def finished(settings: Settings, parts: Path | None = None) -> Settings:
  """Returns the settings of a result that is made, for its file.

  They have what the user's parts have opened meanwhile, for batches in the folder `parts` too.
  """
  opened = per_example.opened(parts) if parts else reads.record()
  return settings | {'opened': reads.joined(settings.get('opened', {}), opened)}


def changed(before: Settings, settings: Settings) -> str:
  """Returns how the settings of a finished result differ from those of now, '' if they do not.

  What was read while it was made is looked at again.
  """
  opened = reads.now(before.get('opened')) | settings.get('opened', {})
  return folder.differences(before, settings | {'opened': opened}, free=('run',))


def as_array(content: Settings) -> np.ndarray:
  """Returns settings as the array `settings` of an npz file, for `read`."""
  return np.array(json.dumps(content))


def check_whole(path: Path) -> None:
  """Raises UserError for an npz or a JSON file whose content differs from its sums."""
  is_whole = npz.is_whole if path.suffix == '.npz' else _is_whole
  if is_regular(path) and not is_whole(path):
    raise UserError(f'{path} {DIFFERS}: delete it, and the same command makes it again')


def _is_whole(path):
  with contextlib.suppress(UserError):
    return bool(read_summed(path))
  return False


def read(path: Path) -> Settings:
  """Reads the settings in an npz or a JSON file; {} if they are missing or damaged."""
  try:
    if path.suffix == '.json':
      return dict(read_summed(path)['settings'])
    return dict(parse_json(npz.read(path, ['settings'], _MOST)['settings'].item()))
  except (OSError, KeyError, TypeError, ValueError, UserError):
    return {}


def code_of(settings: Settings) -> str:
  """Returns the hash of settings in names of files, as the first process has it.

  What the process has opened until now is not in it, which `changed` compares.
  """
  code = sums.of_json({n: x for n, x in settings.items() if n not in ('run', 'opened')})[:8]
  return bytes(processes.broadcast([*bytes.fromhex(code)]).tolist()).hex()


class Place(NamedTuple):
  """Where results are kept: a file, a folder of their batches, and whether the file is there.

  settings: of the results, before they are made.
  """

  path: Path
  parts: Path
  done: bool
  settings: Settings

  def finished(self) -> Settings:
    """Returns the settings for the file of the results, which are made; see `finished`."""
    return finished(self.settings, self.parts)


@contextlib.contextmanager
def making(
  workdir: RunFolder, name: Path, settings: Settings, field: str, given: bool, end: str = '.npz'
) -> Iterator[Place]:
  """Yields, in all processes, the place of the results of these settings.

  It is <name>-<hash><end> in the run folder, or <name><end> if the user has `given` the
  name; the hash is of the settings. The file is locked meanwhile. A file with a hash is made again
  if what was read for it has changed. Raises UserError, about the config's field of the name or '',
  if another process makes the file, if it has other settings, and if it is damaged.
  """
  code = code_of(settings)
  file = name.parent / f'{name.name}{"" if given else f"-{code}"}{end}'
  path = workdir.make(file.parent) / file.name
  with run_folder.hold(path.parent, path.name, f'--config.{field}' if field else '--workdir'):
    done = processes.is_first() and path.exists()
    if done:
      check_whole(path)
      before = read(path)
      others = changed(before, settings)
      if others and not given and all(x.startswith('opened.') for x in others.split('; ')):
        print(f'{path} is made again: {others.replace("opened.", "")}')
        done = False
      elif others:
        raise UserError(
          f'{path} has other settings: {others if before else "it names none"}. '
          f'Delete it, or give another --config.{field}'
        )
    parts = path.with_suffix(f'.{code}.parts' if given else '.parts')
    yield Place(path, parts, bool(processes.broadcast([done])[0]), settings)


@contextlib.contextmanager
def drawing(workdir: RunFolder, name: Path, settings: Settings, *args: Any) -> Iterator[Place]:
  """Yields the place of drawn results as `making`, and prints what they are."""
  print(describe(settings))
  with making(workdir, name, settings, *args) as place:
    yield place
    if place.done:
      print(f'{place.path} is there already, made with these settings')


def newest(workdir: RunFolder, weights: int) -> Iterator[Path]:
  """Yields the files of samples that the weights of a checksum have drawn, the newest first."""
  paths = record.files_of(workdir.samples, '*.npz')
  for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
    if read(path).get('weights') == weights:
      yield path


def _base(workdir):
  return os.path.basename(os.path.abspath(workdir))
