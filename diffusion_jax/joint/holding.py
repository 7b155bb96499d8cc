"""Grids of several variables, which say what is drawn, given, or integrated out."""

from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import split_key
from diffusion_jax.core.levels import NoiseLevel, clean_level, select_level
from diffusion_jax.joint.variables import Variable, known_elements
from diffusion_jax.ranges import Size
from diffusion_jax.sampling.grids import Spacing, level_grid

Array = jax.Array


@checked
def level_grids(
  variables: Mapping[str, Variable], num_steps: Size, spacing: Spacing = 'uniform'
) -> dict[str, NoiseLevel]:
  """Returns a `level_grid` [N+1] for each variable, which all move together.

  A grid of another spacing for one of them is a change of the dict.
  """
  return {name: level_grid(v.schedule, num_steps, spacing) for name, v in variables.items()}


@checked
def held(
  levels: Mapping[str, NoiseLevel],
  given: Collection[str] | Mapping[str, Array] = (),
  noise: Collection[str] | Mapping[str, Array] = (),
) -> dict[str, NoiseLevel]:
  """Holds variables clean, as conditions, or at their first level, so that they are integrated out.

  given, noise: names, or {name: bool} with [B], or [B, T] of elements, to hold some only; the
  grid is then [N+1, B], of examples, or [N+1, B, T]. ValueError for a name that is not in levels.
  """
  grids = {**levels}
  for wanted, is_clean in ((given, True), (noise, False)):
    for name in wanted:
      if name not in grids:
        raise ValueError(f'there is no variable {name!r}: levels are of {sorted(grids)}')
      where = wanted[name] if isinstance(wanted, Mapping) else jnp.ones((), bool)
      where, own = jnp.asarray(where)[None], grids[name]
      axes = (1,) * max(0, where.ndim - own.t.ndim)
      own = jax.tree.map(lambda a, axes=axes: a.reshape(*a.shape, *axes), own)
      where = where.reshape(*where.shape, *[1] * (own.t.ndim - where.ndim))
      to = clean_level() if is_clean else own.take(slice(1))
      grids[name] = select_level(where, to, own)
  return grids


@checked
def hold_known(
  variables: Mapping[str, Variable],
  levels: Mapping[str, NoiseLevel],
  x: Mapping[str, Array],
  known: Mapping[str, Array],
) -> tuple[dict[str, NoiseLevel], dict[str, Array]]:
  """Holds what is known clean: returns grids, and x at their first levels.

  The others are then drawn given it, `dj.sample(key, denoise, sampler, *hold_known(...))`.
  known: {name: array} of some variables, where NaN, or a state below 0, says what is drawn;
  an element with one of these is drawn whole, and without level_axes=2 the whole array of
  an example. x: as `draw_prior` draws it. ValueError for another shape than x's.
  """
  given, filled = {}, {**x}
  for name, array in known.items():
    if name not in x or array.shape != x[name].shape:
      of_x = [*x[name].shape] if name in x else f'no {name!r}'
      raise ValueError(f'known {name!r} has the shape {[*array.shape]}, and x {of_x}')
    given[name] = known_elements(array, variables[name].level_axes)
    filled[name] = jnp.where(expand_to(given[name], x[name]), array, x[name])
  return held(levels, given=given), filled


@checked
def in_turn(
  levels: Mapping[str, NoiseLevel], groups: Sequence[Collection[str]]
) -> dict[str, NoiseLevel]:
  """Returns grids [G N + 1] by which groups of variables are drawn one after another.

  They draw p(first) p(second | first) ..., for networks that know such levels
  (`own_clocks`, or `some_held` with noise). levels: grids [N+1, ...] of one length;
  ValueError unless each variable is in one group.
  """
  if sorted(name for group in groups for name in group) != sorted(levels):
    raise ValueError(f'each of {sorted(levels)} must be in one group, not {[*map(list, groups)]}')
  grids = {}
  for i, group in enumerate(groups):
    for name in group:
      num_steps = levels[name].t.shape[0] - 1
      step = np.arange(len(groups) * num_steps + 1) - i * num_steps
      grids[name] = levels[name].take(np.clip(step, 0, num_steps))
  return grids


@checked
def draw_prior(
  key: Key,
  variables: Mapping[str, Variable],
  shapes: Mapping[str, Sequence[int]],
  levels: Mapping[str, NoiseLevel],
) -> dict[str, Array]:
  """Draws every variable at its first level, [B, ...]; what is given replaces its array.

  key: [] or [B]; shapes: {name: [B, ...]}.
  """
  names = sorted(variables)
  keys = dict(zip(names, split_key(key, len(names)), strict=True))
  return {n: variables[n].prior(keys[n], tuple(shapes[n]), levels[n].take(0)) for n in names}
