"""Our code against other projects' packages, from the extra [parity]."""

import pytest

from benchmarks import torch_packages


def pytest_itemcollected(item):
  item.add_marker(pytest.mark.parity)


@pytest.fixture(scope='session', autouse=True)
def torchvision_loads():
  torch_packages.declare_operators()


@pytest.fixture(autouse=True)
def same_weights_every_time():
  """New networks of torch draw from one generator per process."""
  pytest.importorskip('torch').manual_seed(0)
