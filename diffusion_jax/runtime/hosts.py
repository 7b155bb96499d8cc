"""Checks that the processes of --multihost do the same work, in one folder.

They compare it in the key-value store of `jax.distributed`: in a collective, a
process would wait for ever for another one that does something else.
"""

import itertools
import json
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.aliases import Json
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import heartbeats, processes
from diffusion_jax.runtime.files import make_folder, write_text

SECONDS = 15.0  # until a file of one host is seen by the others
_DAY_MS = 24 * 3600 * 1000
_MOST = 3  # differences that a message names
_numbers = itertools.count()  # of the comparisons, the same in all processes


def check_folder(workdir: str | Path) -> None:
  """Raises UserError, in all processes, unless they see one run folder."""
  if not processes.started():
    return
  # A new name, since clients of network drives remember that a file is missing.
  token = _token(workdir, secrets.token_hex(4))

  def compare(name: str, writer: str) -> str:
    end = time.monotonic() + SECONDS
    while not token.with_name(name).exists():
      if time.monotonic() > end:
        return (
          f'{_name()} does not see what {writer} writes in {workdir}: all hosts need one run '
          'folder. Give a --workdir that they share, such as a network drive or gs://bucket/run'
        )
      time.sleep(0.2)
    return ''

  first = processes.is_first()
  if first:
    write_text(token, '')
  try:
    _compare(token.name, compare)
  finally:
    if first:
      token.unlink(missing_ok=True)


def check_same(what: str, content: Json) -> None:
  """Raises UserError, in all processes, if they have different contents.

  content: {field: value}, of JSON's types; the error names the fields that
  differ. what: their name in the error.
  """
  if not processes.started():
    return
  content = json.loads(json.dumps(content))

  def compare(text: str, writer: str) -> str:
    differences = _differences(json.loads(text), content)
    if not differences:
      return ''
    more = f', and {len(differences) - _MOST} more' if len(differences) > _MOST else ''
    return (
      f'{_name()} has other {what} than {writer}: {"; ".join(differences[:_MOST])}{more}. '
      'Start the same command, with the same files, on all hosts'
    )

  _compare(json.dumps(content), compare)


def _compare(text: str, compare: Callable[[str, str], str]) -> None:
  # Each process compares its own with the first one's text, and says what is
  # wrong; all wait for all, and raise the same error.
  if not heartbeats.available:
    return
  client: Any = heartbeats.global_state.client  # pyright: ignore[reportOptionalMemberAccess]
  number = next(_numbers)
  place = f'diffusion_jax/hosts/{number}'
  if processes.is_first():
    client.key_value_set(f'{place}/first', json.dumps([text, _name()]))
  complaint = compare(*json.loads(client.blocking_key_value_get(f'{place}/first', _DAY_MS)))
  if complaint:
    client.key_value_set(f'{place}/complaints/{jax.process_index()}', complaint)
  processes.wait_for_all(f'comparison {number} of the hosts')
  for _, line in client.key_value_dir_get(f'{place}/complaints'):
    raise UserError(line)


def _token(workdir: str | Path, name: str) -> Path:
  # The file of `check_folder`, named as a draft, which a kill may leave.
  return make_folder(workdir) / f'hosts.{name}.tmp'


def _differences(first: Json, other: Json) -> list[str]:
  return [
    f'{name} is {other.get(name, "absent")}, not {first.get(name, "absent")}'
    for name in sorted(first | other)
    if first.get(name) != other.get(name)
  ]


def _name() -> str:
  return f'host {jax.process_index()} ({socket.gethostname()})'
