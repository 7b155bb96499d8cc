"""Images of a model, on all devices of a run."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from diffusion_jax.app import devices, other_runs
from diffusion_jax.app.constructors import num_steps_of
from diffusion_jax.app.model import Guides, Model
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.per_image import PerImage, per_image
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.sampling.grids import count_steps


def generate(model: Model, mesh: Mesh, trajectory: bool = False) -> PerImage:
  """Returns (params, index [n], cond) -> images [n, H, W, C] in [-1, 1].

  Image i of a seed is the same in every batch and on any devices. With
  `trajectory` the result holds all states, [n, N + 1, H, W, C], if there are
  steps. The runs that config.sampling names guide it.
  """
  if model.draw is None:
    raise UserError(next(model.problems('sample')))
  draw = functools.partial(model.draw, trajectory=trajectory)
  guides = other_runs.guides_of(model)
  return generate_by(model, draw, mesh, model.root(), guides)


def generate_by(
  model: Model,
  draw: Callable,
  mesh: Mesh,
  root: jax.Array,
  guides: Guides,
  size: int = 0,
) -> PerImage:
  """Returns `generate` for images that another function draws.

  draw: (params, guides, keys [B], inputs) -> images [B, ...]; root: the key
  from which each image's key is made; size: batch size, as in `per_image`.
  """
  check_plan(model)
  weights = {name: run.params for name, run in guides.items()}
  weights = replicate(mesh, weights)

  def images(both, keys, inputs):
    params, weights = both
    runs = {n: g._replace(params=weights[n]) for n, g in guides.items()}
    return draw(params, runs, keys, inputs)

  how = devices.effort(model.config)
  each = per_image(images, mesh, root, size, 'the sampler', how)

  def with_guides(function):
    return lambda params, *args: function((params, weights), *args)

  return PerImage(*map(with_guides, each))


def check_plan(model: Model) -> None:
  """Raises UserError for mistakes in the plan, before anything is compiled.

  Prints a note if more levels are visited than the schedule has steps.
  """
  plan, noisy = model.plan, model.noisy
  if plan is None or noisy is None:
    return
  learned = noisy.learns_schedule
  shapes = jax.eval_shape(model.init, abstract_key()) if learned else {}
  jax.eval_shape(lambda params: plan(params).levels, shapes)
  c = model.config.sampling
  if c.respacing or learned:
    return
  visited = c.get('schedule')
  total = num_steps_of(noisy.schedule() if visited is None else visited.make())
  if total is not None and c.num_steps > total:
    steps, others = count_steps(plan().levels, total)
    print(
      f'note: sampling.num_steps={c.num_steps} is more than the {total:,} '
      f'steps of the schedule: {steps:,} distinct steps are visited, and '
      f'{others:,} levels between steps'
    )
