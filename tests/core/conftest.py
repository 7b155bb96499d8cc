import pytest


@pytest.fixture(autouse=True)
def _nan_check(nan_check):
  yield
