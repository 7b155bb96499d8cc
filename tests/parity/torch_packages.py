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
  """Makes a torchvision that was built for GPUs load with torch for CPUs.

  Two operators are missing there. No test uses them, so they are only
  declared. diffusers, transformers, torch-fidelity and pytorch-fid import
  torchvision where it is installed.
  """
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
