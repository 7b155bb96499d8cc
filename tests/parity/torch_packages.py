"""Imports modules of packages that need torchvision."""

import pytest


def load(name):
  """Returns the module, or skips the test where it or torch is missing."""
  pytest.importorskip('torch')
  pytest.importorskip('torchvision')
  return pytest.importorskip(name)
