"""Angles, directions and rotations of a known law: mixtures of wrapped normals."""

import numpy as np

from diffusion_jax.data.directional import Directional, wrap
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.data.splits import check_split
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Rows

# A point is exp_c(s xi): c is a centre and s its deviation in radians, with these shares, and
# xi is a standard normal of the tangent space.
SHARES, DEVIATIONS = (0.5, 0.35, 0.15), (0.4, 0.2, 0.3)
# The torsions (phi, psi) of a strand, a right-handed and a left-handed helix, in degrees.
ANGLES = ((-115.0, 135.0), (-65.0, -40.0), (57.0, 45.0))
DIRECTIONS = ((0.0, 0.0, 1.0), (0.6, 0.0, -0.8), (-0.48, 0.64, -0.6))
ROTATIONS = ((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5), (0.0, 0.6, 0.0, -0.8))


@declares(
  what=(
    'points of a torus (degrees), a sphere or of rotations, by `data.kind`, of a known law; '
    '`data.labelled=True` says which of three wrapped normals each is of'
  ),
  needs='nothing',
)
def wrapped_normals(
  split: str = 'train',
  kind: Directional = 'angles',
  num_examples: Rows = 10_000,
  labelled: bool = False,
) -> ArraySource:
  """Returns points of a mixture of three wrapped normals, SHARES, about centres.

  Angles [N, 2] in degrees, unit vectors [N, 3] or unit quaternions [N, 4]. 'test' has other
  draws. labelled: the labels are the components.
  """
  check_split(split)
  rng = np.random.default_rng(0 if split == 'train' else 1)
  label = rng.choice(len(SHARES), num_examples, p=SHARES).astype(np.int32)
  spread = np.asarray(DEVIATIONS)[label, None]
  if kind == 'angles':
    xi = rng.normal(size=(num_examples, 2))
    x = wrap(np.asarray(ANGLES)[label] + np.rad2deg(spread * xi), 360.0)
  else:
    draw = _directions if kind == 'directions' else _rotations
    x = draw(label, spread * rng.normal(size=(num_examples, 3)))
  classes = {'label': label, 'num_classes': len(SHARES)} if labelled else {}
  period = 360.0 if kind == 'angles' else 0.0
  return ArraySource(x.astype(np.float32), manifold=kind, period=period, **classes)


def _directions(label, v):
  centre = np.asarray(DIRECTIONS)[label]
  v -= np.sum(v * centre, axis=1, keepdims=True) * centre
  length = np.linalg.norm(v, axis=1, keepdims=True)
  return np.cos(length) * centre + np.sinc(length / np.pi) * v


def _rotations(label, v):
  # The centre, and then a turn by the rotation vector v of the body.
  w, u = np.split(np.asarray(ROTATIONS)[label], [1], axis=1)
  half = 0.5 * np.linalg.norm(v, axis=1, keepdims=True)
  c, r = np.cos(half), 0.5 * np.sinc(half / np.pi) * v
  q = [w * c - np.sum(u * r, axis=1, keepdims=True), w * r + c * u + np.cross(u, r)]
  return np.concatenate(q, axis=1)
