import numpy as np
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture
def rng(seeds):
  return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope='session')
def one_thread():
  """Keeps threads of NumPy, which wait by spinning, from the other worker."""
  with threadpool_limits(1):
    yield
