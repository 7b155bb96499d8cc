"""Starts and ends of a run, in lines of JSON."""

import json

import pytest

from diffusion_jax.runtime import sessions
from tests.runtime.test_files import PLANTED, planted


def test_the_lines_of_sessions_are_whole(tmp_path):
  sessions.write_start(tmp_path, 0, 5)
  sessions.write_end(tmp_path, 9, 10)
  with (tmp_path / 'sessions.jsonl').open('a') as file:
    file.write('{"event": "sta')
  first, last = sessions.read(tmp_path)
  assert first['parameters'] == 5 and first['versions']['numpy']
  assert last == {'event': 'end', 'step': 9, 'num_steps': 10, 'time': last['time']}
  json.dumps(first)
  first['time'], last['time'] = '2026-01-01T10:00:00', '2026-01-01T11:02:03'
  assert sessions.seconds([first, last]) == 3723.0
  assert sessions.seconds([first]) is None
  assert sessions.seconds([last | {'event': 'start', 'step': 0}, first | {'event': 'end'}]) is None
  assert sessions.seconds([{**first, 'step': 3}, last]) is None
  assert sessions.read(tmp_path / 'none') == []


@pytest.mark.parametrize('how', PLANTED)
def test_sessions_are_appended_to_a_file_of_the_run(how, tmp_path):
  """Only lines of JSON come into the run from a file elsewhere."""
  name, text = 'sessions.jsonl', 'secret\n{"event": "start"}\n'
  with planted(how, tmp_path, name, text=text) as run:
    sessions.write_end(run, 9, 9)
  assert 'secret' not in (run / name).read_text()
  assert not (run / name).is_symlink()
  kept = ['start'] * (how in ('link', 'hard link'))
  assert [x['event'] for x in sessions.read(run)] == [*kept, 'end']
