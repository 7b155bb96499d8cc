"""Lets packages that need torchvision load."""

import importlib
import importlib.util


def declare_operators() -> None:
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
