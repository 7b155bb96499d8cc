"""Angles, unit vectors and unit quaternions: what is one, how models see them, and as points."""

import math
from typing import Literal

import numpy as np

Directional = Literal['angles', 'directions', 'rotations']
TURN = 2.0 * math.pi
_TOLERANCE = 1e-3  # of lengths, which may be of 16 bits


def problem_of_shape(shape: tuple[int, ...], kind: Directional) -> str:
  """Returns what does not fit in the shape of an example, or ''."""
  if kind == 'directions' and shape[-1] < 2:
    return f'directions are vectors [..., n] with n of 2 or more, not {list(shape)}'
  if kind == 'rotations' and shape[-1] != 4:
    return f'rotations are quaternions [..., 4], scalar first, not {list(shape)}'
  return ''


def check(x: np.ndarray, kind: Directional, period: float, name: str = 'x') -> None:
  """Raises ValueError that names the first row of x [N, ...] that does not fit.

  Angles are at most a period in size: a larger one may be of another unit. Vectors and
  quaternions have the length 1, up to 1e-3.
  """
  for start in range(0, len(x), 4096):
    block = np.asarray(x[start : start + 4096], np.float64)
    finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    if not finite.all():
      row = start + int(np.argmin(finite))
      raise ValueError(f'{name}: row {row} has numbers that are not finite: leave it out')
    if kind == 'angles':
      value = block
      fits = abs(value) <= period * (1.0 + 1e-6)
      what = f'the angle {{:.6g}}, and angles are within a period, {period:.6g}: set data.period, '
      what += 'such as 360 for degrees, or wrap them'
    else:
      value = np.linalg.norm(block, axis=-1)
      fits = abs(value - 1.0) <= _TOLERANCE
      noun = 'vector' if kind == 'directions' else 'quaternion'
      what = f'a {noun} of the length {{:.6g}}, and {kind} have the length 1: divide by it'
    if not fits.all():
      place = tuple(np.argwhere(~fits)[0])
      raise ValueError(f'{name}: row {start + place[0]} has {what.format(value[place])}')


def encode(x: np.ndarray, kind: Directional, period: float) -> np.ndarray:
  """Returns data as models see them, float32: angles in radians, others of the length 1."""
  x = np.asarray(x, np.float64)
  if kind == 'angles':
    return (x * (TURN / period)).astype(np.float32)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def wrap(x: np.ndarray, period: float) -> np.ndarray:
  """Returns angles in [-period / 2, period / 2)."""
  return np.mod(x + 0.5 * period, period) - 0.5 * period


def as_points(x: np.ndarray, kind: Directional, period: float) -> np.ndarray:
  """Returns x [N, ...] as points of a Euclidean space, float64 [N, D].

  Angles are cosines and sines, and rotations their matrices, so that equal ones are equal
  points, and a turn or a rotation of all changes no distance of points.
  """
  x = np.asarray(x, np.float64)
  if kind == 'angles':
    x = np.stack([np.cos(x * (TURN / period)), np.sin(x * (TURN / period))], axis=-1)
  elif kind == 'rotations':
    x = matrices(x)
  return x.reshape(len(x), -1)


def matrices(q: np.ndarray) -> np.ndarray:
  """Returns the matrices [..., 3, 3] of unit quaternions (w, x, y, z), [..., 4]."""
  w, v = q[..., 0, None, None], q[..., 1:]
  cross = np.zeros((*q.shape[:-1], 3, 3))
  for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    cross[..., i, j], cross[..., j, i] = -v[..., k], v[..., k]
  return np.eye(3) + 2.0 * (w * cross + cross @ cross)
