"""How well samples restore a picture: their errors, and which are left out."""

import math

import numpy as np

from diffusion_jax.metrics.metric import Arrays

MOST = 3.0  # residual that is not chance: p < 1e-6 for 4 numbers in y or more


def errors(x: np.ndarray, clean: np.ndarray) -> dict[str, float]:
  """Compares samples x [S, ...] with the clean picture, in [-1, 1].

  Returns PSNR in dB of their mean and of single samples, and the percentage of
  pixels whose truth is between the lowest and the highest sample; (S - 1) / (S
  + 1) of them are if the truth is another draw.
  """
  between = (x.min(axis=0) <= clean) & (clean <= x.max(axis=0))
  return {
    'psnr_of_mean': _psnr(x.mean(axis=0) - clean),
    'psnr': float(np.mean([_psnr(one - clean) for one in x])),
    'between': 100.0 * float(between.mean()),
  }


def figures(numbers: Arrays, clean: np.ndarray | None) -> dict[str, float]:
  """Summarizes the samples of a picture: x [S, ...], residual [S] and others.

  Returns the rms of the residual, the mean spread of x, `errors` where the
  clean picture is known, and the mean of each other number.
  """
  x, residual = numbers['x'], numbers['residual']
  summary = {'residual': _rms(residual), 'spread': float(x.std(axis=0).mean())}
  summary |= {} if clean is None else errors(x, clean)
  for key, of in numbers.items():
    if key not in ('x', 'residual'):
      summary[key] = float(of.min() if key == 'lowest_ess' else of.mean())
  return summary


def kept(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
  """Returns which samples [S, ...] of a picture are finite and near to it.

  Their residual [S] is at most MOST times the usual one, its median, or MOST if
  that is less than 1.
  """
  finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim))) & np.isfinite(residual)
  if not finite.any():
    return finite
  usual = np.quantile(residual[finite], 0.5, method='lower')
  return finite & (residual <= MOST * max(1.0, usual))


def _psnr(error):
  return 20.0 * math.log10(2.0 / max(_rms(error), 1e-9))


def _rms(x):
  return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
