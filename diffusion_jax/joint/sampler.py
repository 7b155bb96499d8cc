"""The sampler of several variables, each by its own, along levels of its own."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffusion_jax.core.checked import checked
from diffusion_jax.core.keys import split_key
from diffusion_jax.sampling.sampler import Sampler, take_step

Array = jax.Array


@checked
def joint_sampler(samplers: Mapping[str, Sampler]) -> Sampler:
  """Makes the sampler that steps each variable by its own, {name: Sampler}.

  x, the state and the levels are dicts, and the denoiser is a `JointDenoiser`. A step's own
  denoiser holds the other variables at their x_t and levels t. Variables that ask at the
  start of the step share one call; one that asks elsewhere, as Heun's method does at its end,
  makes another. Given all of x_t, variables move independently within a step: the error is
  of first order in the step, also with samplers of higher order. A variable between equal
  levels stays, bit for bit.
  """
  names = sorted(samplers)

  def own_keys(key):
    return dict(zip(names, split_key(key, len(names)), strict=True))

  def init(x):
    if sorted(x) != names:
      raise ValueError(f'x has the variables {sorted(x)}, and samplers are of {names}')
    return {name: samplers[name].init(x[name]) for name in names}

  def step(key, x, state, denoise, *, level_s, level_t):
    keys = key if isinstance(key, Mapping) else own_keys(key)
    shared = denoise(x, level_t)

    def own_denoiser(name):
      def estimate(xt, level):
        asked, here = jax.tree.leaves((xt, level)), jax.tree.leaves((x[name], level_t[name]))
        if all(a is b for a, b in zip(asked, here, strict=True)):
          return shared[name]
        return denoise({**x, name: xt}, {**level_t, name: level})[name]

      return estimate

    def step_of(name):
      sampler, own, before = samplers[name], own_denoiser(name), state[name]
      s, t = level_s[name], level_t[name]
      if jnp.ndim(t.alpha) > 1:  # A state of levels has more axes than `init` knows of.
        make = sampler.step
        last = jax.eval_shape(
          lambda: make(keys[name], x[name], before, own, level_s=s, level_t=t)[1]
        )
        before = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), before, last)
      return take_step(sampler, keys[name], x[name], before, own, level_s=s, level_t=t)

    after = {name: step_of(name) for name in names}
    return {n: after[n][0] for n in names}, {n: after[n][1] for n in names}

  def keys_of_steps(key, num_steps):
    return {name: samplers[name].keys(own, num_steps) for name, own in own_keys(key).items()}

  return Sampler(init, step, keys_of_steps)
