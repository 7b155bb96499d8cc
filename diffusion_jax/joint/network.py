"""Networks of several variables: a dict of noisy arrays in, a dict of outputs out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Condition, finite_logsnr, unconditional
from diffusion_jax.core.levels import NoiseLevel, check_one_level
from diffusion_jax.joint.variables import Variable
from diffusion_jax.meshes import where_it_can

Array = jax.Array


@needed('a denoiser of several variables, such as JointNetwork.denoiser(params) returns')
class JointDenoiser(Protocol):
  """An estimate of all clean variables given all noisy ones."""

  def __call__(
    self, xt: Mapping[str, Array], level: Mapping[str, NoiseLevel], /
  ) -> Mapping[str, Any]:
    """Returns for each variable what its samplers take: a Prediction, logits or a velocity."""
    ...


@needed('a joint.JointNetwork(apply, variables)')
@checked
@dataclasses.dataclass(frozen=True)
class JointNetwork:
  """Holds a network function of several variables, and what they are.

  Args:
    apply: (params, x, noise, cond, *, key=None) -> outputs; x [B, ...], noise [B] (or
      [B, T] with level_axes=2) and outputs are dicts with the names of the variables.
    variables: {name: `Variable`}.
    condition: Draws cond in training, (key, batch) -> dict of arrays [B, ...].
  """

  apply: Callable[..., Mapping[str, Array]]
  variables: Mapping[str, Variable]
  condition: Condition = unconditional

  @checked
  def outputs(
    self,
    params: Params,
    xt: Mapping[str, Array],
    level: Mapping[str, NoiseLevel],
    cond: dict | None = None,
    key: Key | None = None,
  ) -> dict[str, Array]:
    """Evaluates the network; ValueError if it leaves out a variable."""
    seen, noise = {}, {}
    for name, variable in self.variables.items():
      axes, own = variable.level_axes, level[name]
      check_one_level(own, f'the variable {name!r} with level_axes={axes}', axes)
      number = jnp.asarray(variable.noise_input(finite_logsnr(own)))
      number = number.reshape(number.shape + (1,) * (axes - number.ndim))
      noise[name] = jnp.broadcast_to(number, xt[name].shape[:axes])
      seen[name] = variable.seen(xt[name], own)

    def run(_, params, seen, noise, cond, key):
      return self.apply(params, seen, noise, cond, key=key)

    first = next(iter(seen.values()))
    outputs = where_it_can(run)(first, params, seen, noise, cond, key)
    if missing := {*self.variables} - {*outputs}:
      raise ValueError(f'the network returns {sorted(outputs)}, but not {sorted(missing)}')
    return {name: outputs[name] for name in self.variables}

  @checked
  def denoiser(self, params: Params, cond: dict | None = None) -> JointDenoiser:
    """Returns the network's denoiser of all variables, for a condition."""

    def denoise(xt, level):
      outputs = self.outputs(params, xt, level, cond)
      return {
        name: variable.estimate(outputs[name], xt[name], level[name])
        for name, variable in self.variables.items()
      }

    return denoise


@checked
def given_others(
  denoise: JointDenoiser, name: str, x: Mapping[str, Array], level: Mapping[str, NoiseLevel]
) -> Callable[[Array, NoiseLevel], Any]:
  """Returns the denoiser of one variable, with the others at x and their levels.

  At a clean level these are conditions, at noise they are integrated out, so that
  `classifier_free` of the two guides by a variable without dropout in training.
  """

  def denoise_one(xt, own):
    return denoise({**x, name: xt}, {**level, name: own})[name]

  return denoise_one
