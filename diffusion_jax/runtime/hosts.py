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
from typing import Any

import jax

from diffusion_jax.aliases import Json
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import heartbeats, processes
from diffusion_jax.runtime.files import make_folder, write_text
from diffusion_jax.runtime.run_folder import Folder

SECONDS = 15.0  # until a file of one host is seen by the others
_DAY_MS = 24 * 3600 * 1000
_numbers = itertools.count()  # numbers of comparisons, the same in all processes


def check_folder(workdir: Folder) -> None:
  """Raises UserError, in all of several processes, unless they see one folder."""
  # A new name, since clients of network drives remember that a file is missing.
  token = make_folder(workdir) / f'hosts.{secrets.token_hex(4)}.tmp'
  first = processes.is_first()

  def complain(name: str, writer: str) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
      if token.with_name(name).exists():
        return ''
      time.sleep(0.2)
    return (
      f'{_name()} does not see what {writer} writes in {workdir}: all hosts need one run folder. '
      'Give a --workdir that they share, such as a network drive or gs://bucket/run'
    )

  try:
    if first:
      write_text(token, '')
    _compare(token.name, complain)
  finally:
    if first:
      token.unlink(missing_ok=True)


def check_same(what: str, fields: Json) -> None:
  """Raises UserError, in all processes, if their fields differ, and names them.

  There must be several processes. fields: {name: value}, of JSON's types; what: a word
  for them in the error.
  """
  text = json.dumps(fields)

  def complain(of_first: str, writer: str) -> str:
    names = _differences(json.loads(of_first), json.loads(text))
    advice = 'Start the same command, with the same files, on all hosts'
    return names and f'{_name()} has other {what} than {writer}: {names}. {advice}'

  _compare(text, complain)


def _compare(text: str, complain: Callable[[str, str], str]) -> None:
  # complain: (text and name of the first process) -> what is wrong here, or ''.
  # All wait for all, and raise the same error.
  if not heartbeats.available:
    return
  client: Any = heartbeats.global_state.client  # pyright: ignore[reportOptionalMemberAccess]
  number = next(_numbers)
  place = f'diffusion_jax/hosts/{number}'
  if processes.is_first():
    client.key_value_set(f'{place}/first', json.dumps([text, _name()]))
  complaint = complain(*json.loads(client.blocking_key_value_get(f'{place}/first', _DAY_MS)))
  if complaint:
    client.key_value_set(f'{place}/complaints/{jax.process_index()}', complaint)
  processes.wait_for_all(f'comparison {number} of the hosts')
  for _, line in client.key_value_dir_get(f'{place}/complaints'):
    heartbeats.stop()  # Or the first process may end because another one has.
    processes.wait_for_all(f'error of comparison {number}')
    raise UserError(line)


def _differences(first: Json, other: Json, most: int = 3) -> str:
  names = [n for n in sorted(first | other) if first.get(n) != other.get(n)]
  texts = [f'{n} is {other.get(n, "absent")}, not {first.get(n, "absent")}' for n in names[:most]]
  texts += [f'and {len(names) - most} more'] * (len(names) > most)
  return '; '.join(texts)


def _name() -> str:
  return f'host {jax.process_index()} ({socket.gethostname()})'
