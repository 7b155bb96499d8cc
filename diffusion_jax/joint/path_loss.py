"""The bound of several variables along a path of their levels, in nats.

The loss of an exact network has one value on all paths with the same ends, as the chain
rule of probability holds in every order: -log p(c) - log p(x | c) is -log p(x) - log p(c | x).
Any other network has a value for each path, and their differences say how far it
contradicts itself.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import draw_uniform, fold_each, key_per_example, split_key
from diffusion_jax.core.levels import NoiseLevel, clean_level, select_level
from diffusion_jax.discrete.level_paths import place_on, spread
from diffusion_jax.joint.network import JointNetwork
from diffusion_jax.ranges import Size

Array = jax.Array


@checked
def path_loss(
  key: Key,
  network: JointNetwork,
  params: Params,
  levels: Mapping[str, NoiseLevel],
  x0: Mapping[str, Array],
  cond: dict | None = None,
  *,
  num_times: Size = 1,
) -> Array:
  """Computes the diffusion loss along a path of levels in nats, an unbiased draw, [B].

  It is the sum over variables of the integral of their loss over their own time. The losses
  must be the terms of the bound: `gaussian` with `vdm_weight(schedule)`, and `states`. With
  `prior_kl` at the first level and a decoder at the last noisy one it is a bound of -log p(x0).

  Args:
    levels: {name: grid [N+1] or [N+1, B]}, noisiest first, such as `in_turn` returns. Within a
      step times change at constant rates, and each step gets as many draws. A variable that
      does not move in a step is given there, or integrated out, and has no loss.
    x0: {name: [B, ...]}, all known.
    num_times: The number of calls of the network, spread evenly along the path. key: [] or [B].
  """
  variables, names = network.variables, sorted(network.variables)
  if several := [name for name in names if variables[name].level_axes > 1]:
    raise ValueError(f'path_loss needs a level for each example, and {several} have level_axes=2')
  size, num_steps = len(x0[names[0]]), levels[names[0]].t.shape[0] - 1
  time_keys, keys = split_key(key_per_example(key, size), 2)
  u, v = draw_uniform(time_keys, jnp.zeros((size, 2))).T

  def term(i):
    step, rest = spread(u, v, i, num_times, num_steps)
    own = split_key(fold_each(keys, i), len(names))
    xt, noise, level, speed = {}, {}, {}, {}
    for name, noise_key in zip(names, own, strict=True):
      place = place_on(variables[name].schedule, levels[name], step, rest)
      level[name] = select_level(place.level.t > 0.0, place.level, clean_level())
      speed[name] = place.speed
      xt[name], noise[name] = variables[name].noised(noise_key, x0[name], level[name])
    outputs = network.outputs(params, xt, level, cond)
    total = jnp.zeros(size)
    for name in names:
      # Elsewhere the level may be clean, where a weight is infinite.
      at = select_level(speed[name] > 0.0, level[name], variables[name].schedule(0.5))
      losses = variables[name].loss(outputs[name], x0[name], xt[name], noise[name], at)
      total += jnp.where(speed[name] > 0.0, speed[name] * losses, 0.0)
    return total

  return jnp.mean(jax.lax.map(term, jnp.arange(num_times)), axis=0)
