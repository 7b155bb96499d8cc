"""Records each start and end of a training in sessions.jsonl.

Each line is a JSON object with an event, step, time and a sum of the line. A start also has the
versions, devices and commits, which config.json does not contain.
"""

import platform
from datetime import UTC, datetime

import jax

from diffusion_jax.aliases import Json
from diffusion_jax.runtime.files import read_json_lines, summed_line, write_text
from diffusion_jax.runtime.run_folder import Folder
from diffusion_jax.runtime.start_up import commits, versions


def write_start(workdir: Folder, step: int, parameters: int, own: Json | None = None) -> None:
  """Appends a start at a step, with what its result may depend on.

  own: the user's modules and files that it uses, and sums of them.
  """
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
      'own': own or {},
    },
  )


def last_own(entries: list[dict]) -> Json:
  """Returns `own` of the last start; {} without a start."""
  starts = [x['own'] for x in entries if isinstance(x.get('own'), dict)]
  return starts[-1] if starts else {}


def write_end(workdir: Folder, step: int, num_steps: int, processor: float | None = None) -> None:
  """Appends the end of a training that did all of its steps.

  num_steps: those that it was told, of which patience may leave some out; processor: the seconds
  that the processor took since the start.
  """
  end = {'event': 'end', 'step': step, 'num_steps': num_steps, 'time': _now()}
  _append(workdir, end | ({} if processor is None else {'processor_seconds': round(processor, 1)}))


def read(workdir: Folder) -> list[dict]:
  """Returns the objects of all complete lines, [] for a missing file."""
  return list(read_json_lines(workdir / 'sessions.jsonl'))


def processor_seconds(entries: list[dict]) -> float | None:
  """Returns the seconds of the processor of a training; None if it was interrupted."""
  return entries[-1].get('processor_seconds') if _is_whole(entries) else None


def seconds(entries: list[dict]) -> float | None:
  """Returns the duration of a training; None if it was interrupted, or a clock went back."""
  if not _is_whole(entries):
    return None
  begun, ended = (datetime.fromisoformat(entry['time']) for entry in entries)
  duration = (ended - begun).total_seconds()
  return duration if duration >= 0 and not entries[0]['step'] else None


def _is_whole(entries):
  return [entry.get('event') for entry in entries] == ['start', 'end']


def _now():
  return datetime.now(UTC).isoformat(timespec='seconds')


def _append(workdir, entry):
  # A new file: the old one may be a link out of the run, or a hard link.
  lines = map(summed_line, (*read(workdir), entry))
  write_text(workdir / 'sessions.jsonl', ''.join(lines))
