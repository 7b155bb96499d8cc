"""What a method of a project is, for the rows of the table."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from diffusion_jax.testing import bench, certify

STEPS = 16, 32, 64, 128
DRAWS, DRAWS_GIVEN_Y = 4000, 2000


class Method(NamedTuple):
  """A method of a project and the problem that it is run on.

  order: what the project documents, of the path or of the law; None: nothing.
  why: the formula behind a result that is not the documented one.
  """

  name: str
  sample: certify.Method
  problem: bench.Problem
  order: int | None = None
  why: str = ''
  steps: Sequence[int] = STEPS
  draws: int = DRAWS


def label(name: str, options: dict) -> str:
  """Returns the name of a method with its options."""
  return ', '.join([name, *(f'{key}={value}' for key, value in options.items())])


@functools.cache
def mixture(sigma_max: float) -> bench.Problem:
  """Returns the mixture whose noise starts at the project's level."""
  return dataclasses.replace(bench.mixture(), sigma_max=sigma_max)


@functools.cache
def inpainting(sigma_max: float) -> bench.Problem:
  """Returns the inverse problem whose noise starts at the project's level."""
  return dataclasses.replace(bench.inpainting(), sigma_max=sigma_max)


def given_y(
  name: str, sample: certify.Method, sigma_max: float, why: str = '', steps: Sequence[int] = STEPS
) -> Method:
  """Returns the row of a method on the inverse problem."""
  return Method(
    name, sample, inpainting(sigma_max), order=None, why=why, steps=steps, draws=DRAWS_GIVEN_Y
  )
