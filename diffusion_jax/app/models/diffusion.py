"""Diffusion models of images: networks that denoise."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.app import choices, images, load, schemas
from diffusion_jax.app.choices import Conditioning, Sampling
from diffusion_jax.app.config import from_config, make, make_part, parameters
from diffusion_jax.runtime.per_image import PerImage, per_image
from diffusion_jax.errors import UserError
from diffusion_jax.app.models import guidance, teachers
from diffusion_jax.app.models.guidance import Guides
from diffusion_jax.app.models.model import IDENTITY, Params
from diffusion_jax.app.schemas import (
  NetworkFacts,
  NoiseFacts,
  ObjectiveFacts,
  SamplerFacts,
)
from diffusion_jax.core.denoiser import NetworkFn, NoiseInput
from diffusion_jax.core.keys import abstract_key, split_key, stream
from diffusion_jax.data.sources import Source
from diffusion_jax.networks.embeddings import STEP_INPUTS
from diffusion_jax.training import augmentation, conditions, objectives
from diffusion_jax.training.objectives import Objective
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.sampling.grids import count_steps

# The facts that a network must take if they are not zero, and what they are of.
NEEDED = {
  'num_classes': 'conditioning.labels',
  'text_width': 'conditioning.text',
  'image_channels': 'conditioning.image',
  'self_conditioning': 'conditioning.self_conditioning',
  'augment_dim': 'conditioning.augment',
  'elapsed': 'objective',
}


class Diffusion:
  """A diffusion model of images, as a config describes it; see `Model`."""

  schema = schemas.DIFFUSION
  makes_images = True
  keeps: tuple[str, ...] = ()
  takes_elapsed = takes_guidance = False
  latents = IDENTITY

  def __init__(self, config: ConfigDict, workdir: str | Path, facts: images.Facts):
    self.config, self.workdir, self.facts = config, Path(workdir), facts
    self.state_shape = facts.image_shape
    self.sampling: Any = self._make_part('sampling', Sampling(None))
    self.conditioning = self._make_part('conditioning', Conditioning())

  def _make(self, key: str, facts: Any = None) -> Any:
    return make(self.schema, key, self.config[key], facts)

  def _make_part(self, path: str, default: Any) -> Any:
    if path not in self.schema.parts:
      return default
    return make_part(self.schema, path, self.config)

  # -- the process ------------------------------------------------------------

  def schedule(self, params: Params | None = None) -> Any:
    """Returns t -> NoiseLevel; params: of the run, if it learns its schedule.

    Raises UserError for a learned schedule without params.
    """
    schedule = self._schedule
    if not self.learns_schedule:
      return schedule
    if params is None:
      raise UserError(
        'config.schedule=learned has values in a trained run only: '
        'objective=vdm trains it, schedule.gamma=fixed needs no run'
      )
    return _with_params(schedule, params['schedule'])

  @functools.cached_property
  def _schedule(self):
    return self._make('schedule')

  @property
  def learns_schedule(self) -> bool:
    """Whether the parameters have a branch 'schedule'."""
    gamma = choices.gamma_of(self._schedule)
    return gamma is not None and getattr(gamma, 'learned', True)

  @property
  def schedule_steps(self) -> int:
    """T of a schedule of steps; 1000 for others."""
    return getattr(self._schedule, 'num_steps', 1000)

  @functools.cached_property
  def parametrization(self) -> choices.Parametrization:
    """What the network predicts."""
    if 'parametrization' not in self.config:
      return choices.Parametrization('flow')
    return self._make('parametrization')

  @functools.cached_property
  def noise_input(self) -> NoiseInput:
    """What the network sees of a level, NoiseLevel -> [B]."""
    return self._make('noise_input', NoiseFacts(self.schedule_steps))

  # -- the network ------------------------------------------------------------

  @functools.cached_property
  def network(self) -> nn.Module:
    """The Flax module, with all that the conditioning needs."""
    facts, section = self.network_facts(), self.config.network
    network = self._make('network', facts)
    takes = parameters(type(network))
    for name, field in NEEDED.items():
      if getattr(facts, name) and name not in takes:
        able = [
          n for n, c in choices.DENOISERS.items() if name in parameters(c)
        ]
        raise UserError(
          f'config.{field} needs a network with {name}: {section.name} has '
          f'none, {" and ".join(able)} have'
        )
    needed = getattr(network, 'noise_input', None)
    if needed not in (None, self.config.noise_input.name):
      raise UserError(f'network {section.name!r} needs config.noise_input={needed}')
    return network

  def network_facts(self) -> NetworkFacts:
    """Returns the parameters of the network that are no fields."""
    c, section = self.conditioning, self.config.schedule
    text = c.text or choices.Text(width=0)
    return NetworkFacts(
      out_channels=(2 if self.learned_variance else 1) * self.state_shape[-1],
      num_classes=self.facts.num_classes if c.labels else 0,
      null_class=c.dropout > 0.0,
      self_conditioning=c.self_conditioning,
      image_channels=self._image_channels(),
      augment_dim=augmentation.NUM_LABELS if c.augment else 0,
      text_width=text.width,
      text_layers=text.layers,
      text_heads=text.heads,
      elapsed=self.takes_elapsed,
      guidance_input=self.takes_guidance,
      gamma_min=section.get('gamma_min'),
      gamma_max=section.get('gamma_max'),
    )

  @property
  def learned_variance(self) -> bool:
    """Whether the objective trains the variance of the reverse process."""
    return self.config.objective.name in ('hybrid', 'vlb')

  def _image_channels(self):
    image = self.conditioning.image
    if image is None:
      return 0
    x0 = jax.ShapeDtypeStruct((1, *self.facts.image_shape), jnp.float32)
    with from_config('conditioning.image'):
      return jax.eval_shape(image, abstract_key(), x0).shape[-1]

  def network_fn(self, network: nn.Module | None = None) -> NetworkFn:
    """Returns (params, x, noise, cond, *, key=None) -> the network's output."""
    module = self.network if network is None else network
    precision = self.config.matmul_precision

    def apply(params, x, noise, cond, /, *, key=None):
      rngs = {} if key is None else {'dropout': key}
      train = key is not None
      variables = {'params': params}
      with choices.matmul_precision(precision):
        return module.apply(variables, x, noise, cond, train=train, rngs=rngs)

    return apply

  def init(self, key: Any) -> Params:
    """Returns the first parameters, {'network': ..., ...}; can be traced."""
    key, gamma_key = jax.random.split(key)
    cond = self.example_cond()
    x = jnp.zeros((1, *self.state_shape))
    variables = self.network.init(key, x, jnp.zeros(1), cond)
    params = {'network': variables['params']}
    if self.learns_schedule:
      gamma = choices.gamma_of(self._schedule)
      params['schedule'] = gamma.init(gamma_key, jnp.zeros(1))['params']
    uncertainty = self.uncertainty
    if uncertainty is not None:
      params['uncertainty'] = uncertainty.init(jax.random.fold_in(gamma_key, 1))
    return params

  def example_cond(self) -> dict:
    """Returns a cond of one image with all that the network must be given."""
    cond: dict = {}
    if self.conditioning.labels:
      cond['label'] = jnp.zeros(1, jnp.int32)
    if self.conditioning.text is not None:
      cond['text'] = jnp.ones((1, 1), jnp.int32)
    for name, field in STEP_INPUTS.items():
      if getattr(self.network, field, False):
        cond[name] = jnp.ones(1)
    return cond

  # -- training ---------------------------------------------------------------

  def objective(self, test: bool = False) -> Objective:
    """Returns the loss; for `test` without dropout and augmentation."""
    objective = self._make('objective', self.objective_facts(test))
    constraints = {}
    if hasattr(self.network, 'constrain'):
      constraints['network'] = self.network.constrain
    if self.uncertainty is not None:
      constraints['uncertainty'] = self.uncertainty.constrain
    if not constraints:
      return objective

    def constrain(params):
      params = objective.constrain(params)
      return params | {n: f(params[n]) for n, f in constraints.items()}

    return dataclasses.replace(objective, constrain=constrain)

  def objective_facts(self, test: bool = False) -> ObjectiveFacts:
    """Returns the parameters of the objective that are no fields."""
    section = self.config.schedule
    return ObjectiveFacts(
      network=self.trained_network(test),
      schedule=None if self.learns_schedule else self.schedule(),
      make_schedule=self.schedule,
      schedule_steps=self.schedule_steps,
      total_steps=self.config.training.num_steps,
      num_levels=self.facts.num_levels,
      sigma_data=self.parametrization.sigma_data,
      sigma_min=section.get('sigma_min'),
      sigma_max=section.get('sigma_max'),
      rho=section.get('rho'),
      teacher=self.teacher(),
    )

  def trained_network(self, test: bool = False) -> objectives.Network:
    """Returns the network with what a training shows it."""
    c, network = self.conditioning, self.network
    if test and hasattr(network, 'dropout'):
      network = network.clone(dropout=0.0)
    augment = None
    if c.augment and not test:
      augment = functools.partial(augmentation.augment, probability=c.augment)
    condition = conditions.make_condition(
      c.labels, 0.0 if test else c.dropout, c.image, c.text is not None
    )
    return objectives.Network(
      self.network_fn(network),
      self.noise_input,
      parametrization=self.parametrization.kind,
      sigma_data=self.parametrization.sigma_data,
      learned_variance=self.learned_variance,
      condition=condition,
      augment=augment,
      self_conditioning=c.self_conditioning,
      estimate_probability=1.0 if test else 0.5,
      time_scale=self.time_scale,
    )

  @property
  def time_scale(self) -> float:
    """The factor of t in the network's input, and of elapsed time."""
    return self.config.noise_input.get('scale', 1.0)

  @property
  def uncertainty(self) -> choices.LogVariance | None:
    """EDM2's u(sigma), which is trained with the network."""
    section = self.config.objective.get('uncertainty')
    if section is None:
      return None
    return make(self.schema, 'uncertainty', section, path='objective.uncertainty')

  def teacher(self) -> Callable[[Any, dict], dj.Denoiser] | None:
    """Returns (frozen, cond) -> Denoiser of training.teacher; None without."""
    run = self.config.training.teacher
    return teachers.denoiser_of(self._open_teacher(), self) if run else None

  def _open_teacher(self):
    run, path = self.config.training.teacher, 'training.teacher'
    config = load.open_run(run, path)
    if schemas.schema_of(config) is not schemas.DIFFUSION:
      raise UserError(
        f'config.{path}: the run in {run} is {schemas.schema_of(config).kind}, '
        'and a teacher must be a diffusion model'
      )
    model = Diffusion(config, run, images.facts_of(config))
    teachers.check(model, self)
    return model

  def prepare(self, source: Source, mesh: Mesh) -> Params:
    """Returns {'teacher': parameters} of a distillation, else {}."""
    if not self.config.training.teacher:
      return {}
    return {'teacher': teachers.prepare(self._open_teacher(), self)}

  def frozen_shapes(self) -> Params:
    """Returns the shapes of what `prepare` returns."""
    if not self.config.training.teacher:
      return {}
    return {'teacher': jax.eval_shape(self._open_teacher().init, abstract_key())}

  def load(self) -> Params:
    """Returns {}: sampling needs no parameters but the run's own."""
    return {}

  def make_encode(self, mesh: Mesh) -> Callable:
    """Returns the function that leaves batches of images as they are."""
    return lambda kept, batch, key, i: batch

  # -- sampling ---------------------------------------------------------------

  def given_cond(self, cond: dict) -> dict:
    """Returns the entries of cond that the network takes."""
    c = self.conditioning
    takes = {
      'label': c.labels,
      'text': c.text is not None,
      'text_mask': c.text is not None,
      'x0': c.self_conditioning,
    }
    return {name: x for name, x in cond.items() if takes.get(name, True)}

  def of_network(
    self, params: Params, cond: dict, maker: Callable = dj.make_denoiser
  ) -> Any:
    """Returns `dj.make_denoiser`, or another maker, of the network."""
    return maker(
      self.network_fn(),
      params['network'],
      parametrization=self.parametrization.kind,
      noise_input=self.noise_input,
      cond=self.given_cond(cond),
      learned_variance=self.learned_variance,
      sigma_data=self.parametrization.sigma_data,
    )

  def denoiser(
    self,
    params: Params,
    cond: dict,
    guides: Guides | None = None,
    after_guidance: Callable[[dj.Denoiser], dj.Denoiser] | None = None,
  ) -> dj.Denoiser:
    """Returns the denoiser of the network, clipped as config.sampling says.

    guides: the runs that guide it, {} for guidance by its own condition; None:
    it is not guided. after_guidance is applied before x_0 is clipped.
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
      return self.of_network(params, cond, dj.make_paired_denoiser)
    guide = guides['guidance']
    worse = guide.model.of_network(guide.params, cond)
    return dj.paired(denoise, guidance.at_levels_of(guide, self, worse))

  def _bound(self, quantile):
    # Returns denoiser -> denoiser, or None for neither a threshold nor a clip.
    if quantile:
      return functools.partial(dj.dynamic_threshold, quantile=quantile)
    return dj.clip_denoised if self.sampling.clip else None

  def step_function(
    self, params: Params, cond: dict, trained: dj.Schedule, **options: Any
  ) -> Any:
    """Returns what the sampler of `levels_and_sampler` calls at each step.

    A denoiser; with self-conditioning a function x_0 -> denoiser. trained: the
    schedule of the training; options: of `denoiser`.
    """

    def at_trained_levels(denoise):
      if self.sampling.schedule is None:
        return denoise
      return dj.at_training_levels(denoise, trained)

    if not self.conditioning.self_conditioning:
      return at_trained_levels(self.denoiser(params, cond, **options))

    def of_estimate(x0):
      # Training clips the estimate, whatever sampling.clip is.
      estimate = {'x0': jnp.clip(x0, -1.0, 1.0)}
      return at_trained_levels(self.denoiser(params, cond | estimate, **options))

    return of_estimate

  def levels_and_sampler(
    self, params: Params | None = None
  ) -> tuple[dj.Schedule, dj.NoiseLevel, dj.Sampler]:
    """Returns (schedule of the training, levels [N + 1], sampler)."""
    trained = self.schedule(params)
    visited = self.sampling.schedule or trained
    levels = self.levels(visited)
    sampler = make(
      self.schema, 'sampler', self.sampling.sampler,
      SamplerFacts(visited), 'sampling.sampler',
    )  # fmt: skip
    sampler = self._corrected(sampler, visited, len(levels.t) - 1)
    if self.conditioning.self_conditioning:
      sampler = dj.self_conditioned(sampler)
    return trained, levels, sampler

  def levels(self, schedule: dj.Schedule, end_clean: bool = True) -> dj.NoiseLevel:
    """Returns the levels that are visited, [N + 1], the noisiest first."""
    c = self.sampling
    with from_config('sampling'):
      if not c.respacing:
        return dj.level_grid(schedule, c.num_steps, c.spacing, end_clean=end_clean)
      if not hasattr(schedule, 'num_steps'):
        raise ValueError('respacing needs a schedule of steps')
      steps = dj.respaced_steps(schedule.num_steps, c.respacing)
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

  def from_noise(
    self,
    params: Params,
    guides: Guides,
    keys: jax.Array,
    cond: dict,
    *,
    trajectory: bool = False,
    wrap: Callable | None = None,
    **options: Any,
  ) -> jax.Array:
    """Returns samples [B, ...], or with `trajectory` [N + 1, B, ...].

    keys: [B]; wrap: (sampler, levels) -> (sampler, levels); options: of
    `denoiser`.
    """
    prior_keys, keys = split_key(keys, 2)
    trained, levels, sampler = self.levels_and_sampler(params)
    denoise = self.step_function(params, cond, trained, guides=guides, **options)
    shape = (*keys.shape, *self.state_shape)
    x = dj.prior_sample(prior_keys, shape, levels.take(0))
    if wrap is not None:
      sampler, levels = wrap(sampler, levels)
    return dj.sample(keys, denoise, sampler, levels, x, trajectory)

  def generate(
    self,
    mesh: Mesh,
    guides: Guides | None = None,
    trajectory: bool = False,
  ) -> PerImage:
    """Returns (params, index [n], cond) -> images [n, H, W, C] in [-1, 1].

    Image i of a seed is the same in every batch and on any devices. With
    `trajectory` all states from noise to image, [n, N + 1, H, W, C].
    """
    root = stream(self.config.sampling.seed, 'sampling')
    draw = functools.partial(self.from_noise, trajectory=trajectory)
    return self.generate_by(draw, mesh, root, guides, trajectory=trajectory)

  def generate_by(
    self,
    draw: Callable,
    mesh: Mesh,
    root: Any,
    guides: Guides | None = None,
    size: int = 0,
    trajectory: bool = False,
  ) -> PerImage:
    """Returns `generate` with the images that another function draws.

    draw: (params, guides, keys [B], inputs) -> x, as `from_noise`; root: the
    key from which each image has one; size: of batches, as in `per_image`.
    """
    # What the config cannot have is refused before anything is compiled.
    learned = self.learns_schedule
    shapes = jax.eval_shape(self.init, abstract_key()) if learned else {}
    jax.eval_shape(lambda params: self.levels_and_sampler(params)[1], shapes)
    self._note_more_levels_than_steps()
    guides = guides or {}
    weights = {name: run.params for name, run in guides.items()}
    weights = replicate(mesh, weights)

    def images(both, keys, inputs):
      params, weights = both
      runs = {n: g._replace(params=weights[n]) for n, g in guides.items()}
      x = draw(params, runs, keys, inputs)
      decode = functools.partial(self.latents.decode, params.get('autoencoder'))
      if trajectory:
        return jnp.swapaxes(jax.lax.map(decode, x), 0, 1)
      return decode(x)

    compute = per_image(images, mesh, root, size)

    def start(params, index, inputs):
      return compute.start((params, weights), index, inputs)

    return PerImage(start)

  def _note_more_levels_than_steps(self):
    c = self.sampling
    if c.respacing or self.learns_schedule:
      return
    schedule = getattr(c, 'schedule', None) or self.schedule()
    total = getattr(schedule, 'num_steps', c.num_steps)
    if c.num_steps > total:
      steps, others = count_steps(self.levels(schedule), total)
      print(
        f'note: sampling.num_steps={c.num_steps} is more than the {total:,} '
        f'steps of the schedule: {steps:,} distinct steps are visited, and '
        f'{others:,} levels between steps'
      )

  @property
  def reverse_variance(self) -> str:
    """The variance of the reverse process, as the sampler has it."""
    return self.sampling.sampler.get('variance', 'fixed_small')

  def source(self, split: str = 'train') -> Source:
    """Returns the images of a split."""
    return images.source_of(self.config, split)

  def unclipped(self) -> 'Diffusion':
    """Returns this model, whose estimates of x_0 are not clipped."""
    model = copy.copy(self)
    model.sampling = dataclasses.replace(
      self.sampling, clip=False, dynamic_threshold=0.0
    )
    return model

  def check_guide(self, guide: 'Diffusion') -> None:
    """Raises UserError for a model that cannot guide this one."""

  def write_more(self, params: Params, path: Path) -> dict[str, np.ndarray]:
    """Returns {}: all that a diffusion model draws is its samples."""
    return {}

  # -- refusals ---------------------------------------------------------------

  def check(self, mode: str) -> None:
    """Raises UserError for what would be noticed late, or not at all."""
    c = self.sampling
    kind = self.parametrization.kind
    if kind in ('eps', 'score') and not self.learns_schedule:
      # A program, not single operations; a schedule need not be a pytree.
      if jax.jit(self.schedule().__call__)(1.0).alpha == 0.0:
        raise UserError(
          f'config.parametrization={kind}: the schedule has no signal at t = 1, '
          f'where {kind} does not determine x_0: set parametrization=v or x0'
        )
    if self.config.network.get('attention') == 'cudnn':
      if jax.default_backend() != 'gpu':
        raise UserError(
          'config.network.attention=cudnn needs a GPU, and this is '
          f'{jax.default_backend()}: set it to xla, which has the same parameters'
        )
    own_guidance = c.guidance is not None and not getattr(c.guidance, 'run', '')
    if own_guidance and c.guidance.scale != 1.0 and not self.conditioning.dropout:
      raise UserError(
        f'config.sampling.guidance.scale={c.guidance.scale} needs a network that '
        'was trained with conditioning.dropout, or another run: '
        'sampling.guidance=autoguidance'
      )
    if mode == 'train':
      self._check_heights()

  def _check_heights(self):
    heights = self.config.network.get('attention_resolutions')
    if not heights or ':' in self.config.network.name:
      return
    levels = len(getattr(self.network, 'multipliers', (1,)))
    height = self.state_shape[0]
    possible = [height // 2**level for level in range(levels)]
    absent = [h for h in heights if h not in possible]
    if absent:
      raise UserError(
        f'config.network.attention_resolutions: no feature map has the height '
        f'{absent[0]}; the heights are {", ".join(map(str, possible))}, and () '
        'is attention in the middle only'
      )


def _with_params(schedule, params):
  if isinstance(schedule, dj.ShiftedSchedule):
    inner = _with_params(schedule.schedule, params)
    return dataclasses.replace(schedule, schedule=inner)
  return dataclasses.replace(schedule, params=params)
