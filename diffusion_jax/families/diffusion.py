"""Diffusion models of images: training, sampling, bounds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.make import choose
from diffusion_jax.build.schedule import learns_schedule
from diffusion_jax.core.keys import split_key, stream
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import bits
from diffusion_jax.families.family import IDENTITY, Family, Metric
from diffusion_jax.runs import guidance_runs, results, teachers
from diffusion_jax.runs.per_image import PerImage, per_image
from diffusion_jax.runtime.sharding import replicate

# Objectives that a teacher's denoiser enters.
TAUGHT = 'reflow', 'consistency_distillation', 'progressive_distillation'


def objective(config, test=False):
  """Returns the `Objective` of the config, as `build.build_objective`.

  Raises UserError for an objective that the schedule or network cannot have.
  """
  c, learned_variance = config.objective, config.network.learned_variance
  if c.name in TAUGHT and c.teacher is None:
    raise UserError(
      f'config.objective.teacher is needed by objective.name={c.name}: the '
      'workdir of a diffusion run of the same data'
    )
  teacher = {'teacher': lambda: teachers.make_teacher(config)}
  found = build.build_objective(config, test, lambda network: teacher)
  build.check_signal(config)
  if c.augment and config.conditioning.image:
    raise UserError(
      'config.objective.augment changes the images, conditioning.image would '
      'show them as they were: set one of the two'
    )
  if c.name == 'vdm' and not learns_schedule(config):
    with build.from_config('schedule'):
      check_ends(config.schedule.name, build.build_schedule(config))
  if c.name == 'vdm' and learned_variance:
    raise UserError('config.network.learned_variance: vdm has no use for it')
  return found


def check_ends(name, schedule):
  """Raises ValueError where VDM's bound has no value: SNR = inf or 0."""
  if schedule(0.0).sigma == 0.0 or schedule(1.0).alpha == 0.0:
    raise ValueError(
      f'{name!r} begins without noise or ends without signal; the objective '
      'vdm needs a schedule such as learned or continuous_cosine'
    )


def levels_and_sampler(config, params):
  """Returns (trained schedule, levels [N+1], sampler) of config.sampling."""
  trained = build.build_schedule(config, params)  # it may be learned
  visited = build.build_sampling_schedule(config, trained)
  sampler = build.build_sampler(config, visited)
  if config.conditioning.self_conditioning:
    sampler = dj.self_conditioned(sampler)
  return trained, build.build_levels(config, visited), sampler


def build_denoise(config, params, cond, trained, **options) -> Any:
  """Returns the denoiser that the sampler of `levels_and_sampler` is given.

  That is a `FlowMap` where the network is one. trained: the schedule of the
  training; options: as of `build.build_denoiser`.
  """
  if build.is_map(config):
    return build.build_flow_map(config, params, cond)

  def at_trained_levels(denoise):
    if not config.sampling.schedule:
      return denoise
    return dj.at_training_levels(denoise, trained)

  arguments = config, params, cond
  if not config.conditioning.self_conditioning:
    return at_trained_levels(build.build_denoiser(*arguments, **options))
  of_x0 = build.build_self_conditioned(*arguments, **options)
  return lambda x0: at_trained_levels(of_x0(x0))


def from_noise(config, params, guiding, keys, cond, wrap=None, **options):
  """Returns samples [B, ...], or with sampling.trajectory [N + 1, B, ...].

  keys: [B]; wrap: (sampler, levels) -> (sampler, levels); options: as of
  `build.build_denoiser`.
  """
  prior_keys, keys = split_key(keys, 2)
  trained, levels, sampler = levels_and_sampler(config, params)
  options['guiding'] = guiding
  denoise = build_denoise(config, params, cond, trained, **options)
  shape = (*keys.shape, *build.state_shape(config))
  x = dj.prior_sample(prior_keys, shape, levels.take(0))
  if wrap is not None:
    sampler, levels = wrap(sampler, levels)
  return dj.sample(
    keys, denoise, sampler, levels, x, config.sampling.trajectory
  )


def generate(config, mesh, latents=IDENTITY):
  """Returns (params, index [n], cond) -> images [n, H, W, C] in [-1, 1].

  cond: NumPy arrays [n, ...], {} for none. Image i of a seed is the same in
  whatever batch and on however many devices it is made. With
  sampling.trajectory all states from noise to image, [n, N + 1, H, W, C]. Where
  `latents` are diffused, params['autoencoder'] decodes them.
  """
  root = stream(config.sampling.seed, 'sampling')
  return generate_by(from_noise, config, mesh, root, latents)


def generate_by(draw, config, mesh, root, latents=IDENTITY, size=0):
  """Returns `generate`, a `PerImage`, with the images that `draw` makes.

  draw: (config, params, guiding, keys [B], inputs) -> x, as `from_noise`; root:
  the key from which every image has one; size: of batches, as in `per_image`.
  """
  build.check_signal(config)
  # What the config cannot have is refused here, before anything is compiled. Of
  # the parameters it takes those of a learned schedule.
  learned = learns_schedule(config)
  shapes = build.init_shapes(build.init_params(config)) if learned else {}
  jax.eval_shape(lambda params: levels_and_sampler(config, params)[1], shapes)
  note = build.describe_steps(config)
  if note:
    print(note)
  guiding = guidance_runs.find_guiding_runs(config)
  weights = {name: run.params for name, run in guiding.items()}
  weights = replicate(mesh, weights)

  def images(both, keys, inputs):
    params, weights = both
    runs = {n: g._replace(params=weights[n]) for n, g in guiding.items()}
    x = draw(config, params, runs, keys, inputs)
    decode = functools.partial(latents.decode, params.get('autoencoder'))
    if config.sampling.trajectory:
      return jnp.swapaxes(jax.lax.map(decode, x), 0, 1)
    return decode(x)

  compute = per_image(images, mesh, root, size)

  def start(params, index, inputs):
    return compute.start((params, weights), index, inputs)

  return PerImage(start)


def elbo(config):
  """Measures the variational bound, and its terms."""
  c = config.evaluation
  build.check_signal(config)
  decoder = build.build_decoder(config)
  num_steps = c.num_steps or build.num_steps(config)

  def measure(params, keys, x0, cond):
    return dj.variational_bound(
      keys,
      build.build_denoiser(config, params, cond),
      build.build_schedule(config, params),
      x0,
      num_steps=num_steps,
      variance=config.sampling.variance,
      steps=c.random_steps or None,
      decoder=decoder,
    )

  return measure


DEQUANTIZATIONS = {
  'uniform': lambda key, x0, level, k: (dj.dequantize(key, x0, k), 0.0),
  'gaussian': dj.gaussian_dequantize,
}


def ode(config):
  """Measures the log-likelihood by the probability flow ODE."""
  build.check_signal(config)
  c = config.evaluation
  dequantize = choose(
    DEQUANTIZATIONS, 'evaluation', 'dequantization', c.dequantization
  )
  # A clipped field would have kinks that no solver can pass.
  config = config.copy_and_resolve_references()
  config.sampling.clip = False

  def measure(params, keys, x0, cond):
    noise_keys, probe_keys = split_key(keys, 2)
    schedule = build.build_schedule(config, params)
    x, log_weight = dequantize(
      noise_keys, x0, schedule(c.t_min), config.data.num_levels
    )
    log_p, _ = dj.log_likelihood(
      probe_keys,
      build.build_denoiser(config, params, cond),
      schedule,
      x,
      t_min=c.t_min,
      rtol=c.tolerance,
      atol=c.tolerance,
      num_probes=c.num_probes,
    )
    return {'log_p': log_p + log_weight}

  return measure


def independent_pixels(config):
  """Measures the code length by histograms of the training images' pixels."""
  source = build.build_source(config, 'train')
  every = range(0, len(source), 1000)
  log_prob = bits.pixel_histogram(
    (source.read(np.arange(i, min(i + 1000, len(source))))[0] for i in every),
    config.data.num_levels,
  )
  log_prob = jnp.asarray(log_prob)
  return lambda params, keys, x0, cond: {
    'nll': bits.independent_pixels_nll(x0, log_prob)
  }


INDEPENDENT_PIXELS = Metric(
  independent_pixels, results.report_independent_pixels
)

FAMILY = Family(
  name='a diffusion model',
  init=build.init_params,
  objective=objective,
  generate=generate,
  prepare=lambda config, workdir, latents, source, mesh: teachers.prepare(
    config, workdir
  ),
  kept_shapes=lambda config, latents: teachers.shapes(config),
  metrics={
    'elbo': Metric(elbo, results.report_elbo),
    'ode': Metric(ode, results.report_ode),
    'independent_pixels': INDEPENDENT_PIXELS,
  },
)
