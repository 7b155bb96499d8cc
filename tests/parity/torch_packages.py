"""Imports modules of torch-fidelity and pytorch-fid, which need torchvision."""

import pytest


def load(name):
  """Returns the module, or skips the test where it or torch is missing.

  A torchvision built for GPUs does not load beside a CPU build of torch: two
  operators that it describes are missing. No test here uses them, and they are
  declared instead.
  """
  torch = pytest.importorskip('torch')
  try:
    pytest.importorskip('torchvision')
  except RuntimeError:
    for operator in ('nms', 'qnms'):
      torch.library.define(
        f'torchvision::{operator}',
        '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
      )
  return pytest.importorskip(name)
