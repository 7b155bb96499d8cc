"""An accelerator's numbers against the CPU's (`pytest -m device`).

tests/conftest.py chooses the CPU for all other tests. Without an accelerator
these tests compare the CPU with itself in float64.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
  for item in items:
    if HERE in item.path.parents:
      item.add_marker(pytest.mark.device)
