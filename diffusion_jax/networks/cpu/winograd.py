"""3x3 convolutions by Winograd's algorithm F(4x4, 3x3), for CPUs.

A tile of 4x4 outputs is 36 products instead of 144 for each pair of channels
(Lavin & Gray 2016): y = A^T [(G k G^T) * (B^T x B)] A for tiles x of 6x6. The
products over channels are 36 products of matrices. Both gradients are computed
in the same way. In float32 the error is about 3e-6 of the largest output.

The sums of a tile are exact in exact arithmetic only. So a large input changes
outputs of its tiles beyond its 3x3 reach: 1e6 among standard normal numbers by
0.07 to 0.21, where its own outputs are 1.2e5 (64 channels, kernels of variance
1 / (9 C)). A NaN reaches 16, 20 or 25 outputs instead of 9.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Padding = tuple[tuple[int, int], ...]  # rows and columns

TILE, TAPS = 4, 3
SIZE = TILE + TAPS - 1  # points of evaluation, infinity included


def _matrices(points: Sequence[float]) -> tuple[np.ndarray, ...]:
  """Returns A^T [4, 6], G [6, 3] and B^T [6, 6] of Toom and Cook's algorithm.

  Polynomials are evaluated at the points and at infinity. Rows of B^T have
  about unit norm, by powers of two.
  """
  a = np.array(points, np.float64)

  def evaluate(count):
    powers = a[:, None] ** np.arange(count)
    return np.vstack([powers, np.eye(count)[-1]])

  gaps = a[:, None] - a[None] + np.eye(len(a))
  factors = np.append(gaps.prod(axis=1), 1.0)
  before = np.linalg.inv(evaluate(SIZE)).T * factors[:, None]
  before[np.abs(before) < 1e-12] = 0.0
  scale = 2.0 ** np.round(np.log2(np.linalg.norm(before, axis=1)))
  kernel = evaluate(TAPS) / factors[:, None] * scale[:, None]
  return evaluate(TILE).T, kernel, before / scale[:, None]


# With the usual points 0, +-1, +-2 errors are four times as large.
OUTPUT, KERNEL, INPUT = _matrices((0.0, 0.625, -0.625, 1.5, -1.5))


def _combine(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
  """Returns sum_j matrix[i, j] parts[j] for each row i.

  Sums do not depend on the precision of matrix products.
  """
  sums = []
  for row in matrix:
    terms = [float(c) * part for c, part in zip(row, parts, strict=True) if c]
    sums.append(sum(terms[1:], terms[0]))
  return sums


def _on_two_axes(matrix, parts_of, x, axes):
  # Returns [rows, rows, ...]: `matrix` applied to the parts along both axes of
  # x. The second axis is an axis of the first pass's result, not counting the
  # new first axis. XLA would fuse the two passes into one, which is slower.
  first = jnp.stack(_combine(matrix, parts_of(x, axes[0])))
  first = lax.optimization_barrier(first)
  return jnp.stack(_combine(matrix, parts_of(first, axes[1] + 1)), axis=1)


def _of_kernel(matrix: np.ndarray, x: Array) -> Array:
  """Applies `matrix` along both axes of a kernel: [n^2, C, O] -> [rows^2, C, O].

  One product, because a kernel is small: sums would compile ten times longer.
  """
  both = np.kron(matrix, matrix).astype(x.dtype)
  return jnp.tensordot(both, x, 1, precision='highest')


def _unstack(x, axis):
  return [lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])]


# Jitted functions are traced and lowered once for the layers of one shape.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _input_tiles(x: Array, counts: tuple[int, int], padding: Padding) -> Array:
  """Returns B^T x B of the tiles: [B, H, W, C] -> [36, B h w, C]."""
  pads = [
    (before, TILE * n + TAPS - 1 - side - before)
    for n, side, (before, _) in zip(counts, x.shape[1:3], padding, strict=True)
  ]
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(x, zero, [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])

  def parts(x, axis):
    end = x.shape[axis] - SIZE + 1
    return [lax.slice_in_dim(x, i, i + end, TILE, axis=axis) for i in range(SIZE)]

  return _on_two_axes(INPUT, parts, x, (1, 2)).reshape(SIZE**2, -1, x.shape[-1])


@functools.partial(jax.jit, static_argnums=1)
def _output_points(g: Array, counts: tuple[int, int]) -> Array:
  """Returns A g A^T of the tiles: [B, H, W, O] -> [36, B h w, O]."""
  b, height, width, features = g.shape
  (h, w), zero = counts, jnp.zeros((), g.dtype)
  pads = [(0, TILE * h - height, 0), (0, TILE * w - width, 0)]
  g = lax.pad(g, zero, [(0, 0, 0), *pads, (0, 0, 0)])
  g = g.reshape(b, h, TILE, w, TILE, features)
  # The first pass removes axis 2, so that the columns of a tile are at 3.
  points = _on_two_axes(OUTPUT.T, _unstack, g, (2, 3))
  return points.reshape(SIZE**2, -1, features)


def tile_counts(height: int, width: int) -> tuple[int, int]:
  """Returns how many tiles cover an output."""
  return -(-height // TILE), -(-width // TILE)


def conv(x: Array, kernel: Array, padding: Padding, precision) -> Array:
  """Computes a 3x3 convolution, NHWC x HWIO -> NHWC.

  precision: of the products of matrices. bfloat16 is computed in float32, because it
  has too few digits for the sums.
  """
  dtype, x, kernel = x.dtype, _float32(x), _float32(kernel)
  b, height, width, _ = x.shape
  (top, bottom), (left, right) = padding
  height, width = height + top + bottom - 2, width + left + right - 2
  h, w = tile_counts(height, width)
  products = lax.dot_general(
    _input_tiles(x, (h, w), padding),
    _of_kernel(KERNEL, kernel.reshape(-1, *kernel.shape[2:])),
    (((2,), (1,)), ((0,), (0,))),
    precision=precision,
  )
  products = products.reshape(SIZE, SIZE, b, h, w, -1)
  y = _on_two_axes(OUTPUT, _unstack, products, (0, 0))
  y = y.transpose(2, 3, 0, 4, 1, 5).reshape(b, TILE * h, TILE * w, -1)
  return y[:, :height, :width].astype(dtype)


def _float32(x):
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def kernel_gradient(x: Array, g: Array, padding: Padding, precision) -> Array:
  """Returns dL/dkernel [3, 3, C, O] for g = dL/dy of `conv`."""
  dtype, x, g = x.dtype, _float32(x), _float32(g)
  counts = tile_counts(*g.shape[1:3])
  points = lax.dot_general(
    _input_tiles(x, counts, padding),
    _output_points(g, counts),
    (((1,), (1,)), ((0,), (0,))),
    precision=precision,
  )
  return _of_kernel(KERNEL.T, points).reshape(TAPS, TAPS, *points.shape[1:]).astype(dtype)
