"""Imports modules of packages that need torchvision."""

import importlib
import importlib.util

import pytest


def load(name):
  """Returns the module, or skips the test where it or torch is missing."""
  pytest.importorskip('torch')
  pytest.importorskip('torchvision')
  return pytest.importorskip(name)


def declare_operators():
  """Makes a torchvision for GPUs load with torch for CPUs."""
  if not all(map(importlib.util.find_spec, ('torch', 'torchvision'))):
    return
  import torch

  try:
    importlib.import_module('torchvision')
  except RuntimeError:
    for operator in ('nms', 'qnms'):
      torch.library.define(
        f'torchvision::{operator}', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
      )
