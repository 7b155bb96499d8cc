"""Stores what samples depend on in their npz file, as JSON: `settings`."""

import json
import os
from importlib import metadata
from pathlib import Path

import numpy as np

from diffusion_jax.data import sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import run_folder
from diffusion_jax.training import checkpoints, checksums

_PACKAGES = ('diffusion_jax', 'jax', 'jaxlib', 'flax', 'numpy')


def settings(config, workdir, params):
  """Returns what images made from `params` depend on; names of runs, no paths.

  config.sampling.checkpoint is the step, as `sample.restore` sets it.
  """
  sampling = run_folder.plain(config)['sampling']
  del sampling['name']
  for field in ('guidance_run', 'classifier'):
    if sampling[field]:
      sampling[field] = _name_run(sampling[field])
  found = {
    'run': _base(workdir),
    'config_hash': run_folder.config_hash(workdir),
    'weights': checksums.of_arrays(params),
    'sampling': sampling,
    'versions': {name: _version(name) for name in _PACKAGES},
  }
  network = _computed_by(config, workdir)
  return found | ({'network': network} if network else {})


def _computed_by(config, workdir):
  # Returns what the command line changed of how the network is computed.
  both = run_folder.run_config(workdir, config), config
  stored, now = (run_folder.plain(c)['network'] for c in both)
  names = [f.removeprefix('network.') for f in run_folder.COMPUTED_BY]
  return {n: now[n] for n in names if now[n] != stored[n]}


def edit_settings(config, workdir, params, pictures):
  """Returns `settings`, and the fields of `edit` with the names of its files.

  pictures: the arrays that were read from those files, by name.
  """
  edit = run_folder.plain(config)['edit']
  del edit['name']
  for field in ('image', 'image2', 'mask'):
    edit[field] = Path(edit[field]).name
  read_from = {name: checksums.of_arrays(x) for name, x in pictures.items()}
  found = settings(config, workdir, params)
  return found | {'edit': edit, 'pictures': read_from}


def describe(found):
  """Returns the essential settings in a line."""
  c = found['sampling']
  respacing, num_steps = c['respacing'], c['num_steps']
  steps = f'respacing {respacing}' if respacing else f'{num_steps} steps'
  line = (
    f'settings: {found["run"]}, checkpoint {c["checkpoint"]}, {c["sampler"]}, '
    f'{steps}, seed {c["seed"]}'
  )
  for field in ('guidance_scale', 'classifier_scale'):
    if c[field] != 1.0:
      line += f', {field} {c[field]}'
  for name, value in found.get('network', {}).items():
    line += f', network.{name} {value}'
  return line


def write_npz(path, arrays, found):
  """Writes arrays and the settings that made them, for `read`."""
  settings = np.array(json.dumps(found))
  run_folder.write_npz(path, arrays | {'settings': settings})


def read(path):
  """Reads the settings in an npz file; {} if it has none or is damaged."""
  try:
    with open(path, 'rb') as raw, np.load(raw) as arrays:
      return json.loads(arrays['settings'].item())
  except (KeyError, *sources.UNREADABLE):
    return {}


def check_same(path, now, what, field):
  """Raises UserError, about `what`, if the file at `path` has other settings.

  field: of the config, with the name of the file.
  """
  before = read(path)
  changed = run_folder.differences(before, now, free=('run',))
  if changed:
    raise UserError(
      f'{what} has other settings: {changed if before else "none are in it"}. '
      f'Delete it, or give the new one another name by --config.{field}'
    )


def _name_run(workdir):
  return f'{_base(workdir)}, checkpoint {checkpoints.find_step(workdir)}'


def _base(workdir):
  return os.path.basename(os.path.abspath(workdir))


def _version(package):
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:  # run from a checkout
    return 'not installed'
