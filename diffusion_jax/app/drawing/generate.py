"""Images of a model, on all devices of a run."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.app import devices
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.model import FILM, Guides, Model
from diffusion_jax.app.run import other_runs
from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.compiling import program
from diffusion_jax.runtime.per_example import PerExample, per_example
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.sampling.grids import count_steps
from diffusion_jax.sampling.sampler import sample, spread_levels


def generate(model: Model, mesh: Mesh, size: int = 0) -> PerExample:
  """Returns (params, index [n], cond) -> images [n, H, W, C] in [-1, 1].

  Image i of a seed is the same in every batch and on any devices. The runs that
  config.sampling names guide it. size: batch size, as in `per_example`.
  """
  return _drawn(model, mesh, size).then(lambda params, drawn: drawn[0])


def generate_film(model: Model, mesh: Mesh, size: int = 0) -> PerExample:
  """Returns (params, index [n], cond) -> (images, `Frames`), by one program.

  It is the program of `generate`. A model that takes no steps has no frames,
  but None.
  """
  each = _drawn(model, mesh, size)
  if model.plan is None:
    return each
  plan, how = model.plan, devices.effort(model.config)
  decode = program('the decoder', model.latents.decoded, mesh, how).start

  def with_film(params, drawn):
    x, states = drawn

    def film():
      frames = [decode(params, z) for z in states.swapaxes(0, 1)]
      levels = jax.eval_shape(lambda params: plan(params).levels, params)
      steps = spread_levels(len(levels.t) - 1, FILM[0]).tolist()
      return dict(zip(steps, jax.device_get(frames), strict=True))

    return x, film

  return each.then(with_film)


def _drawn(model, mesh, size):
  if model.draw is None:
    raise UserError(next(model.problems('sample')))
  guides = other_runs.guides_of(model)
  return generate_by(model, model.draw, mesh, model.root(), guides, size)


def generate_by(
  model: Model, draw: Callable, mesh: Mesh, root: jax.Array, guides: Guides, size: int = 0
) -> PerExample:
  """Returns (params, index [n], inputs) -> what another function draws.

  draw: (params, guides, keys [B], inputs) -> arrays [B, ...]; root: the key
  from which each image's key is made; size: batch size, as in `per_example`.
  """
  check_plan(model)
  weights = replicate(mesh, {n: guide.params for n, guide in guides.items()})

  def images(both, keys, inputs):
    return draw(*with_params(guides, both), keys, inputs)

  how = devices.effort(model.config)
  each = per_example(images, mesh, root, size, 'the sampler', how)

  def with_guides(function):
    return lambda params, *args: function((params, weights), *args)

  return PerExample(*map(with_guides, each))


def with_params(guides: Guides, both: tuple) -> tuple[Params, Guides]:
  """Returns (params, the guides with theirs) of both trees of parameters."""
  params, others = both
  return params, {n: g._replace(params=others[n]) for n, g in guides.items()}


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
  if learned:
    return
  sampler = c.get('sampler')
  if sampler and ':' in sampler.name:
    _rehearse(sampler, plan, noisy.state_shape)
  if c.respacing:
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


def _rehearse(section, plan, shape):
  # One step of the user's own sampler. What keys of images cannot draw is known
  # only when it is lowered.
  def run(key):
    found = plan()
    if not found.denoises:
      return None
    keys, x = jax.random.split(key, 2), jnp.zeros((2, *shape))
    sampler = section.make({'schedule': found.schedule})
    levels = found.levels.take(slice(2))
    return sample(keys, lambda x, level: Prediction(x), sampler, levels, x)

  with from_config('sampling.sampler'):
    try:
      jax.jit(run).lower(abstract_key())
    except (ArithmeticError, LookupError):  # What draws images reports it.
      return
