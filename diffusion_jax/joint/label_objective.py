"""The loss of examples and their labels, and the clocks that a config chooses for it."""

from collections.abc import Callable, Mapping

import jax

from diffusion_jax.core.checked import checked
from diffusion_jax.declared import declares
from diffusion_jax.joint.network import JointNetwork
from diffusion_jax.joint.objectives import (
  Clocks,
  common_clock,
  denoising,
  own_clocks,
  some_held,
)
from diffusion_jax.ranges import Positive, Probability, Size
from diffusion_jax.training.objectives import Objective

Array = jax.Array


@checked
def held_clocks(probability: Probability = 0.6, noise: Probability = 0.4) -> Clocks:
  """Makes `some_held` of the common clock, so that conditionals, marginals and orders are learned.

  Args:
    probability: that one of the two may be held.
    noise: that it is then held at noise, and not clean.
  """
  return some_held(common_clock, probability, noise)


def common_clocks() -> Clocks:
  """Returns `common_clock`: both have one time, and neither is given."""
  return common_clock


def independent_clocks() -> Clocks:
  """Returns `own_clocks`: each has its own time (UniDiffuser)."""
  return own_clocks


@declares(what='the sum of the losses of an example and its label', denoises=False)
@checked
def labelled(
  network: JointNetwork,
  arrays: Callable[[dict], Mapping[str, Array]],
  size: Size,
  *,
  clocks: Clocks,
  label_weight: Positive = 0.1,
) -> Objective:
  """Makes `denoising` of x and its label, x in the mean over its `size` numbers.

  Args:
    clocks: the times of the two in training.
    label_weight: of the label's loss, in nats, beside 1 of x.
  """
  weights = {'x': 1.0 / size, 'label': label_weight}
  return denoising(network, clocks=clocks, weights=weights, arrays=arrays)
