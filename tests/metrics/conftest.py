import numpy as np
import pytest


@pytest.fixture
def rng(seeds):
  return np.random.default_rng(0)
