"""Networks of the variance-exploding SDE (Song et al. 2021) as ones of eps."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_eps(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns parameters of a network of eps, of those of a VE network.

  Theirs is -eps, at log(sigma) of images in [0, 1]; ours lie in [-1, 1], where
  sigma is twice that. The outputs change sign; the sin and cos of 2 pi f
  (log(sigma) - log 2) are turned in the first dense layer, in float64.
  """
  found = dict(params)
  last = found['conv_out']
  found['conv_out'] = {name: -x for name, x in last.items()}
  f = np.asarray(found['noise_fourier']['frequencies'], np.float64)
  angle = (2.0 * np.pi * np.log(2.0) * f)[:, None]
  first = found['noise_dense_1']
  sines, cosines = np.split(np.asarray(first['kernel'], np.float64), 2)
  kernel = np.concatenate([
    np.cos(angle) * sines + np.sin(angle) * cosines,
    np.cos(angle) * cosines - np.sin(angle) * sines,
  ])  # fmt: skip
  found['noise_dense_1'] = {**first, 'kernel': kernel.astype(np.float32)}
  return found
