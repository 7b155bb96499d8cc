"""A run folder keeps its complete config, and a changed file is read again."""

import json
import os
from typing import Any

import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import roles
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, refused, smoke
from tests.app.kinds.test_roles import written


def test_the_config_is_written_with_all_values_and_the_facts(tmp_path):
  stored: Any = folder.read_config(RunFolder.at(written(tmp_path)))
  assert stored['facts'] == json.loads(json.dumps(DIGITS.as_json()))
  assert {**stored, 'facts': 0} == {**folder.plain(smoke()), 'facts': 0}
  assert folder.read_config(RunFolder.at(tmp_path / 'nothing')) is None
  assert folder.read_config(RunFolder.at(tmp_path / 'config.json')) is None


def test_a_config_that_has_changed_is_read_again(tmp_path):
  """A changed config.json is read again, even of the same size or from another program."""
  for seed in (1, 2, 3):
    folder.write_stored(tmp_path, {'seed': seed})
    assert folder.read_config(RunFolder.at(tmp_path)) == {'seed': seed}
  path = tmp_path / 'config.json'
  for seed in (4, 5):
    before = path.stat()
    path.write_text(json.dumps({'seed': seed}))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert folder.read_config(RunFolder.at(tmp_path)) == {'seed': seed}


@pytest.mark.parametrize('name', ['1.PNG', 'x.npz', 'a.csv', 'b.tar', 'c.parquet', 'd.safetensors'])
def test_a_folder_of_data_does_not_become_a_run(name, tmp_path):
  (tmp_path / 'job.log').touch()
  (tmp_path / '.hidden.npz').touch()
  (tmp_path / 'trained_on.npz').touch()  # as an interrupted first start leaves it
  roles.check_same_run(RunFolder.at(tmp_path), smoke())
  folder.check_no_run(RunFolder.at(tmp_path / 'new'), '--config.average.out')
  (tmp_path / name).touch()
  message = f'{tmp_path} has data, {name}, and no run: give a new folder'
  refused(f'--workdir={message}', roles.check_same_run, RunFolder.at(tmp_path), smoke())
  flag = '--config.average.out'
  refused(f'{flag}={message}', folder.check_no_run, RunFolder.at(tmp_path), flag)
  folder.write_config(RunFolder.at(tmp_path), smoke(), DIGITS)
  roles.check_same_run(RunFolder.at(tmp_path), smoke())  # the run itself may have any file


def test_long_values_are_named_by_what_differs():
  """As the categories and the quantiles of a table."""
  knots = [[], [x / 7 for x in range(1000)]]
  other = [[], [*knots[1][:500], 99.0, *knots[1][501:]]]
  assert folder.differences({'x': {'knots': knots}}, {'x': {'knots': other}}) == (
    f'x.knots is {500 / 7}, 99.0 now'
  )
  line = folder.differences({'x': 'a' * 1000}, {'x': knots})
  assert line.startswith('x is aaa') and len(line) < 250
  assert folder.differences({'x': [1, 2]}, {'x': [1, 3]}) == 'x is [1, 2], [1, 3] now'
