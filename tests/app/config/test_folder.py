"""The config.json of a run folder."""

import json
from typing import Any

from diffusion_jax.app.config import folder
from tests.app.conftest import DIGITS, smoke
from tests.app.kinds.test_roles import written


def test_the_config_is_written_with_all_values_and_the_facts(tmp_path):
  stored: Any = folder.read_config(written(tmp_path))
  assert stored['facts'] == json.loads(json.dumps(DIGITS.as_json()))
  assert {**stored, 'facts': 0} == {**folder.plain(smoke()), 'facts': 0}
  assert folder.read_config(tmp_path / 'nothing') is None
  assert folder.read_config(tmp_path / 'config.json') is None
