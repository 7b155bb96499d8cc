"""Metrics are tested with one thread of NumPy, so that two workers do not wait for each other."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope='session')
def one_thread():
  """Keeps threads of NumPy, which wait by spinning, from the other worker."""
  with threadpool_limits(1):
    yield
