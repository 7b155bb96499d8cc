"""Our code against other projects' packages, from the extra [parity]."""

from pathlib import Path

import pytest

from benchmarks import torch_packages

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
  for item in items:
    if HERE in item.path.parents:
      item.add_marker(pytest.mark.parity)


@pytest.fixture(scope='session', autouse=True)
def torchvision_loads():
  torch_packages.declare_operators()


@pytest.fixture(autouse=True)
def same_weights_every_time():
  """New networks of torch draw from one generator per process."""
  pytest.importorskip('torch').manual_seed(0)
