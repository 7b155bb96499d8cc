"""Diffusion models of images: networks that denoise."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import diffusion_jax as dj
from diffusion_jax.app import devices, images
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.constructors import num_steps_of
from diffusion_jax.app.model import Guides, OtherRun, Params
from diffusion_jax.app.models import guidance, teachers
from diffusion_jax.app.models.noisy import NoisyModel
from diffusion_jax.core.keys import abstract_key, split_key, stream
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime.compiling import program
from diffusion_jax.runtime.per_image import PerImage, per_image
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.sampling.grids import count_steps
from diffusion_jax.sampling.sampler import sample_frames, spread_levels

Wrap = Callable[[dj.Denoiser], dj.Denoiser]
FILM = 25, 10  # levels and images of `generate` with a trajectory


class Diffusion(NoisyModel):
  """A diffusion model of images; see `Model`."""

  schema = kinds.DIFFUSION
  makes_images = True

  def __init__(self, config: Node, workdir: str | Path, facts: images.Facts):
    super().__init__(config, workdir, facts)
    self.sampling = config.sampling.make()

  # -- its teacher ------------------------------------------------------------

  @functools.cached_property
  def _teacher(self) -> 'Diffusion | None':
    config = teachers.open_run(self)
    if config is None:
      return None
    run = self.config.training.teacher
    model = Diffusion(config, run, images.facts_of(config))
    refuse(teachers.problems(model, self))
    return model

  def teacher(self) -> Callable[[Params, dict], dj.Denoiser] | None:
    """Returns (frozen, cond) -> Denoiser of training.teacher, or None.

    frozen: {'teacher': parameters}; it is evaluated at the student's levels.
    """
    model = self._teacher
    if model is None:
      return None

    def teacher(frozen, cond):
      run = OtherRun(model, frozen['teacher'])
      denoise = model.of_network(run.params, cond)
      return guidance.at_levels_of(run, self, denoise)

    return teacher

  def prepare(self, source: Source, mesh: Mesh) -> Params:
    """Returns {'teacher': parameters} for a distillation, else {}."""
    model = self._teacher
    return {} if model is None else {'teacher': teachers.prepare(model, self)}

  def frozen_shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    model = self._teacher
    if model is None:
      return {}
    return {'teacher': jax.eval_shape(model.init, abstract_key())}

  # -- sampling ---------------------------------------------------------------

  def given_cond(self, cond: dict) -> dict:
    """Returns the entries of cond that are inputs of the network."""
    return {n: x for n, x in cond.items() if n in self.inputs.names}

  def of_network(self, params: Params, cond: dict) -> dj.Denoiser:
    """Returns the network's denoiser, without guidance and clipping."""
    return self.given_network().denoiser(
      params['network'], self.given_cond(cond)
    )

  def denoiser(
    self,
    params: Params,
    cond: dict,
    guides: Guides | None = None,
    after_guidance: Wrap | None = None,
  ) -> dj.Denoiser:
    """Returns the network's denoiser, clipped as config.sampling says.

    guides: the runs that guide it, {} for guidance by its own condition; None:
    no guidance. after_guidance: applied before x_0 is clipped.
    """
    c = self.sampling
    denoise = self.of_network(params, cond)
    functions = [after_guidance, self._bound(c.dynamic_threshold)]
    if guides is None:
      functions[1] = self._bound(0.0)
    else:
      if c.guidance is not None and c.guidance.scale != 1.0:
        denoise = c.guidance.guide(self._pair(params, cond, guides, denoise))
      by_classifier = guidance.by_classifier(self, guides, cond)
      after_clip = c.classifier is not None and c.classifier.after_clip
      functions.insert(2 if after_clip else 0, by_classifier)
    for function in functions:
      denoise = denoise if function is None else function(denoise)
    return denoise

  def _pair(self, params, cond, guides, denoise):
    if 'guidance' not in guides:
      return dj.make_paired_denoiser(
        self.given_network(), params['network'], self.given_cond(cond)
      )
    guide = guides['guidance']
    worse = guide.model.of_network(guide.params, cond)
    return dj.paired(denoise, guidance.at_levels_of(guide, self, worse))

  def _bound(self, quantile):
    # Returns denoiser -> denoiser, or None if x_0 is not clipped.
    if not quantile:
      return dj.clip_denoised if self.sampling.clip else None

    def thresholded(denoise):
      with from_config('sampling.dynamic_threshold'):
        return dj.dynamic_threshold(denoise, quantile)

    return thresholded

  def step_function(
    self,
    params: Params,
    cond: dict,
    trained: dj.Schedule,
    guides: Guides | None = None,
    after_guidance: Wrap | None = None,
  ) -> Callable:
    """Returns the function that the sampler calls at each step.

    This is a denoiser, or with self-conditioning a function x_0 -> denoiser.
    trained: the schedule of the training; the others are as for `denoiser`.
    """

    def at_trained_levels(denoise):
      if self.sampling.schedule is None:
        return denoise
      return dj.at_training_levels(denoise, trained)

    if not self.conditioning.self_conditioning:
      return at_trained_levels(
        self.denoiser(params, cond, guides, after_guidance)
      )

    def of_estimate(x0):
      # The estimate is always clipped in training.
      estimate = {'x0': jnp.clip(x0, -1.0, 1.0)}
      return at_trained_levels(
        self.denoiser(params, cond | estimate, guides, after_guidance)
      )

    return of_estimate

  def levels_and_sampler(
    self, params: Params | None = None
  ) -> tuple[dj.Schedule, dj.NoiseLevel, dj.Sampler]:
    """Returns (schedule of the training, levels [N + 1], sampler)."""
    trained = self.schedule(params)
    visited = self.sampling.schedule or trained
    levels = self.levels(visited)
    sampler = self.sampling.sampler.make({'schedule': visited})
    sampler = self._corrected(sampler, visited, len(levels.t) - 1)
    if self.conditioning.self_conditioning:
      sampler = dj.self_conditioned(sampler)
    return trained, levels, sampler

  def steps(
    self, params: Params, guides: Guides, cond: dict, clip: bool = True
  ) -> tuple[Callable, dj.NoiseLevel, dj.Sampler]:
    """Returns (step function, levels [N + 1], sampler); clip: `unclipped`."""
    model = self if clip else self.unclipped()
    trained, levels, sampler = model.levels_and_sampler(params)
    return model.step_function(params, cond, trained, guides), levels, sampler

  def levels(
    self, schedule: dj.Schedule, end_clean: bool = True
  ) -> dj.NoiseLevel:
    """Returns the levels to visit, [N + 1], the noisiest first."""
    c = self.sampling
    with from_config('sampling'):
      if not c.respacing:
        return dj.level_grid(
          schedule, c.num_steps, c.spacing, end_clean=end_clean
        )
      total = num_steps_of(schedule)
      if total is None:
        raise ValueError('respacing needs a schedule of steps')
      steps = dj.respaced_steps(total, c.respacing)
      return dj.step_levels(schedule, steps)

  def _corrected(self, sampler, schedule, num_steps):
    c = self.sampling
    if c.churn is None and c.corrector is None:
      return sampler
    if jax.tree.leaves(sampler.init(jnp.zeros((1, 1)))):
      raise UserError(
        f'config.sampling.sampler={c.sampler.name} uses earlier steps, which '
        'churn and corrector change: set both to None or take another sampler'
      )
    with from_config('sampling'):
      if c.churn is not None:
        sampler = c.churn.around(sampler, schedule, num_steps)
      if c.corrector is not None:
        sampler = c.corrector.around(sampler)
    return sampler

  def prior_sample(self, keys: jax.Array, level: dj.NoiseLevel) -> jax.Array:
    """Draws pure noise for each of the keys [B], at the noisiest level."""
    return dj.prior_sample(keys, (*keys.shape, *self.state_shape), level)

  def replace_known(
    self, sampler: dj.Sampler, known: jax.Array, mask: jax.Array
  ) -> dj.Sampler:
    """Returns the sampler that keeps known pixels, for --mode=edit."""
    return dj.replace_known(sampler, known, mask)

  def from_noise(
    self,
    params: Params,
    guides: Guides,
    keys: jax.Array,
    cond: dict,
    *,
    trajectory: bool = False,
    wrap: Callable | None = None,
    after_guidance: Wrap | None = None,
  ) -> Any:
    """Returns samples [B, ...], with `trajectory` also states [n, F, ...].

    keys: [B]; wrap: (sampler, levels) -> (sampler, levels); after_guidance: see
    `denoiser`.
    """
    prior_keys, keys = split_key(keys, 2)
    trained, levels, sampler = self.levels_and_sampler(params)
    denoise = self.step_function(params, cond, trained, guides, after_guidance)
    x = self.prior_sample(prior_keys, levels.take(0))
    if wrap is not None:
      sampler, levels = wrap(sampler, levels)
    x, states, _ = sample_frames(keys, denoise, sampler, levels, x, *FILM)
    return (x, jnp.swapaxes(states, 0, 1)) if trajectory else x

  def generate(
    self, mesh: Mesh, guides: Guides | None = None, trajectory: bool = False
  ) -> PerImage:
    """Returns (params, index [n], cond) -> images [n, H, W, C] in [-1, 1].

    Image i of a seed is the same in every batch and on any devices. The program
    is the same with `trajectory`.
    """
    root = stream(self.config.sampling.seed, 'sampling')
    draw = functools.partial(self.from_noise, trajectory=True)
    each = self.generate_by(draw, mesh, root, guides, trajectory=True)
    if not trajectory:
      return each.then(lambda params, both: both[0])
    steps = spread_levels(len(self._levels_shape().t) - 1, FILM[0])
    how = devices.effort(self.config)
    decode = program('the decoder', self._decode, mesh, how).call

    def with_film(params, both):
      x, states = both

      def film():
        frames = [decode(params, z) for z in states.swapaxes(0, 1)]
        return dict(zip(steps.tolist(), jax.device_get(frames), strict=True))

      return x, film

    return each.then(with_film)

  def _decode(self, params, z):
    return self.latents.decode(params.get('autoencoder'), z)

  def generate_by(
    self,
    draw: Callable,
    mesh: Mesh,
    root: jax.Array,
    guides: Guides | None = None,
    size: int = 0,
    trajectory: bool = False,
  ) -> PerImage:
    """Returns `generate` for images that another function draws.

    draw: (params, guides, keys [B], inputs) -> x, as `from_noise`; root: the
    key from which each image's key is made; size: batch size, as in
    `per_image`; trajectory: draw returns (x, states), and so does the result.
    """
    # Mistakes in the config are refused before anything is compiled.
    self._levels_shape()
    self._note_more_levels_than_steps()
    guides = guides or {}
    weights = {name: run.params for name, run in guides.items()}
    weights = replicate(mesh, weights)

    def images(both, keys, inputs):
      params, weights = both
      runs = {n: g._replace(params=weights[n]) for n, g in guides.items()}
      x = draw(params, runs, keys, inputs)
      if trajectory:
        return self._decode(params, x[0]), x[1]
      return self._decode(params, x)

    how = devices.effort(self.config)
    each = per_image(images, mesh, root, size, 'the sampler', how)

    def with_guides(function):
      return lambda params, *args: function((params, weights), *args)

    return PerImage(*map(with_guides, each))

  def _levels_shape(self):
    learned = self.learns_schedule
    shapes = jax.eval_shape(self.init, abstract_key()) if learned else {}
    return jax.eval_shape(
      lambda params: self.levels_and_sampler(params)[1], shapes
    )

  def _note_more_levels_than_steps(self):
    c = self.sampling
    if c.respacing or self.learns_schedule:
      return
    schedule = c.schedule or self.schedule()
    total = num_steps_of(schedule)
    if total is not None and c.num_steps > total:
      steps, others = count_steps(self.levels(schedule), total)
      print(
        f'note: sampling.num_steps={c.num_steps} is more than the {total:,} '
        f'steps of the schedule: {steps:,} distinct steps are visited, and '
        f'{others:,} levels between steps'
      )

  @property
  def reverse_variance(self) -> str:
    """The variance of the reverse process, from the sampler's section."""
    return self.sampling.sampler.get('variance', 'fixed_small')

  def unclipped(self) -> 'Diffusion':
    """Returns this model without sampling.clip, and without a classifier."""
    model = copy.copy(self)
    model.sampling = dataclasses.replace(
      self.sampling, clip=False, classifier=None
    )
    return model

  def check_guide(self, guide: 'Diffusion') -> None:
    """Raises UserError for a model that cannot guide this one."""

  def problems(self, mode: str) -> Iterator[str]:
    """Yields what the network or its guidance does not allow."""
    yield from super().problems(mode)
    yield from self._guidance_problems()

  def _guidance_problems(self):
    guide = self.config.sampling.get('guidance')
    if guide is None or guide.get('run'):
      return
    if guide.scale != 1.0 and not self.conditioning.dropout:
      yield (
        f'config.sampling.guidance.scale={guide.scale} needs a network that '
        'was trained with conditioning.dropout, or another run: '
        'sampling.guidance=autoguidance'
      )
