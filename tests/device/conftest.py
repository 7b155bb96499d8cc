"""Numbers of an accelerator against those of the CPU (`pytest -m device`).

tests/conftest.py chooses the CPU for all other tests; with `-m device` it does
not. Where there is no accelerator the same tests hold the CPU against itself in
float64.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
  for item in items:
    if HERE in item.path.parents:
      item.add_marker(pytest.mark.device)
