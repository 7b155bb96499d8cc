"""Records each start and end of a training in sessions.jsonl.

Each line is a JSON object with an event, step, time and a sum of the line. A start also has the
versions, devices and commits, which config.json does not contain.
"""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jax

from diffusion_jax.runtime.files import read_json_lines, summed_line, write_text

PACKAGES = ('diffusion_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
# Settings of JAX that change results, and JAX's defaults.
_SETTINGS: dict[str, object] = {
  'jax_default_matmul_precision': None,
  'jax_default_prng_impl': 'threefry2x32',
  'jax_enable_x64': False,
  'jax_high_dynamic_range_gumbel': False,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_random_seed_offset': 0,
  'jax_threefry_partitionable': True,
}


def write_start(workdir: Path, step: int, parameters: int) -> None:
  """Appends a start at a step, with what its result may depend on."""
  _append(
    workdir,
    {
      'event': 'start',
      'step': step,
      'time': _now(),
      'parameters': parameters,
      'python': platform.python_version(),
      'platform': platform.platform(terse=True),
      'devices': [device.device_kind for device in jax.devices()],
      'processes': jax.process_count(),
      'versions': versions(),
      'commits': commits(),
    },
  )


def write_end(workdir: Path, step: int) -> None:
  """Appends the end of a training that did all of its steps."""
  _append(workdir, {'event': 'end', 'step': step, 'time': _now()})


def read(workdir: Path) -> list[dict]:
  """Returns the objects of all complete lines, [] for a missing file."""
  return list(read_json_lines(workdir / 'sessions.jsonl'))


def seconds(entries: list[dict]) -> float | None:
  """Returns the duration of a training; None if it was interrupted."""
  if [entry.get('event') for entry in entries] != ['start', 'end']:
    return None
  begun, ended = (datetime.fromisoformat(entry['time']) for entry in entries)
  return (ended - begun).total_seconds() if not entries[0]['step'] else None


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
  """Returns the versions of the packages that are installed.

  The settings of JAX that change results are added unless they are JAX's own.
  """
  values = {name: jax.config.values.get(name) for name in _SETTINGS}
  values = {name: getattr(x, 'value', x) for name, x in values.items()}
  installed = {n: str(x) for n, x in values.items() if x != _SETTINGS[n]}
  for name in packages:
    try:
      installed[name] = metadata.version(name)
    except metadata.PackageNotFoundError:  # Ours may run from a checkout.
      continue
  return installed


def commits() -> dict[str, str]:
  """Returns the git commits of the package and the working folder.

  A folder outside a repository is left out; -dirty marks uncommitted changes.
  """
  package = Path(__file__).resolve().parents[2]
  names = {}
  if (package / '.git').exists():  # An environment may be in a repository.
    names['package'] = _commit(package)
  if not Path.cwd().is_relative_to(package):
    names['working folder'] = _commit(Path.cwd())
  return {name: commit for name, commit in names.items() if commit}


def _commit(folder):
  command = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
  try:
    result = subprocess.run(
      [*command, '--exclude=*'],  # the commit, not the distance from a tag
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=10,
    )
  except (OSError, subprocess.TimeoutExpired):  # no git, or a slow drive
    return ''
  return result.stdout.strip() if result.returncode == 0 else ''


def _now():
  return datetime.now(UTC).isoformat(timespec='seconds')


def _append(workdir, entry):
  # A new file: the old one may be a link out of the run, or a hard link.
  lines = map(summed_line, (*read(workdir), entry))
  write_text(workdir / 'sessions.jsonl', ''.join(lines))
