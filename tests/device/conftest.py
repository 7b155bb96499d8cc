"""An accelerator's numbers against the CPU's (`pytest -m device`).

tests/environment.py chooses the CPU for all other tests. Without an accelerator
these tests compare the CPU with itself in float64.
"""

import os

import pytest

collect_ignore_glob = [] if os.environ.get('TEST_ON_DEVICE') else ['test_*.py']


def pytest_itemcollected(item):
  item.add_marker(pytest.mark.device)
