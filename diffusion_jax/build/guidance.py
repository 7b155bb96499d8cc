"""Builds the guided denoiser of config.sampling."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.make import from_config, make
from diffusion_jax.build.network import (
  build_network,
  build_noise_input,
  network_fn,
)
from diffusion_jax.build.schedule import (
  build_schedule,
  learns_schedule,
)
from diffusion_jax.training.classifier import label_log_prob


class GuidingRun(NamedTuple):
  """Holds the config and the averaged parameters of a run that guides."""

  config: Any
  params: Any


def cond_of_network(config, cond):
  """Returns the entries of cond that the run's network takes."""
  takes = {
    'label': config.conditioning.labels,
    'text': config.conditioning.text,
    'text_mask': config.conditioning.text,
    'x0': config.conditioning.self_conditioning,
  }
  return {name: x for name, x in cond.items() if takes.get(name, True)}


def of_network(config, params, cond, make: Any = dj.make_denoiser):
  """Returns `make` of the run's network, with the entries of cond it takes."""
  return make(
    network_fn(config, build_network(config)),
    params['network'],
    parametrization=config.objective.parametrization,
    noise_input=build_noise_input(config),
    cond=cond_of_network(config, cond),
    learned_variance=config.network.learned_variance,
    sigma_data=config.objective.sigma_data,
  )


def by_class(config, params, cond, guiding):
  """Returns the denoiser of the network, guided without a classifier."""
  c = config.sampling
  denoise = of_network(config, params, cond)
  if c.guidance_scale != 1.0:
    high = float('inf') if c.guidance_max is None else c.guidance_max
    interval = c.guidance_min, high
    denoise = dj.classifier_free(
      _pair(config, params, cond, guiding.get('guidance_run'), denoise),
      c.guidance_scale,
      c.guidance_rescale,
      interval,
      c.guidance_channels,
    )
  return denoise


def by_classifier(config, cond, guiding):
  """Returns denoiser -> denoiser guided by a classifier; None without one.

  It guides towards cond['label'], whether or not the network takes labels.
  """
  if 'classifier' not in guiding:
    return None
  return functools.partial(
    dj.classifier_guided,
    log_prob_fn=_log_prob(config, guiding['classifier'], cond['label']),
    scale=config.sampling.classifier_scale,
  )


def _pair(config, params, cond, guide: Any, denoise):
  if guide is None:
    return of_network(config, params, cond, dj.make_paired_denoiser)
  other = of_network(guide.config, guide.params, cond)
  return dj.paired(denoise, _at_levels_of(config, guide, other))


def build_logits(config, params):
  """Returns the classifier, (x_t, level) -> logits [B, num_classes]."""
  return functools.partial(
    dj.network_output,
    network_fn(config, build_network(config)),
    params['network'],
    parametrization=config.objective.parametrization,
    noise_input=build_noise_input(config),
    cond={},
    sigma_data=config.objective.sigma_data,
  )


def _log_prob(config, guide, label):
  logits = build_logits(guide.config, guide.params)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), label)

  return _at_levels_of(config, guide, log_prob)


def _at_levels_of(config, guide, function: Any) -> Any:
  # The other run may have another schedule, at whose levels it is evaluated.
  if guide.config.schedule == config.schedule and not learns_schedule(config):
    return function
  schedule = build_schedule(guide.config, guide.params)
  return dj.at_training_levels(function, schedule)


def build_denoiser(config, params, cond, after_guidance=None, guiding=None):
  """Returns the denoiser of the network; params: {'network': ...}.

  guiding: {field of config.sampling: GuidingRun}, as of
  `runs.guidance_runs.find_guiding_runs`; the denoiser is guided as
  config.sampling says. None: it is not guided. after_guidance: denoiser ->
  denoiser, applied after guidance and before x0 is clipped; with
  sampling.clip_before_classifier x0 is clipped before a classifier guides.
  """
  if guiding is None:
    denoise = of_network(config, params, cond)
    return _applied(denoise, after_guidance, _bound_of_x0(config, 0.0))
  denoise = by_class(config, params, cond, guiding)
  classifier = by_classifier(config, cond, guiding)
  bound = _bound_of_x0(config, config.sampling.dynamic_threshold)
  if config.sampling.clip_before_classifier:
    return _applied(denoise, after_guidance, bound, classifier)
  return _applied(denoise, classifier, after_guidance, bound)


def _applied(denoise, *functions):
  for function in functions:
    denoise = denoise if function is None else function(denoise)
  return denoise


def _bound_of_x0(config, quantile):
  # Returns denoiser -> denoiser; None for neither a threshold nor a clip.
  if not quantile:
    return dj.clip_denoised if config.sampling.clip else None

  def thresholded(denoise):  # within [-1, 1] after it
    with from_config('sampling.dynamic_threshold'):
      return dj.dynamic_threshold(denoise, quantile)

  return thresholded


def build_self_conditioned(config, params, cond, **options):
  """Returns x0 of the step before -> the denoiser conditioned on it.

  options: as of `build_denoiser`.
  """

  def of_estimate(x0):
    # Training clips it as well, whatever sampling.clip is.
    cond_and_x0 = cond | {'x0': jnp.clip(x0, -1.0, 1.0)}
    return build_denoiser(config, params, cond_and_x0, **options)

  return of_estimate


# The constructors of config.evaluation.decoder.
DECODERS = {
  'gaussian': lambda num_levels: functools.partial(
    dj.reconstruction_nll, num_levels=num_levels
  ),
  'tanh': lambda num_levels: functools.partial(
    dj.reconstruction_nll, num_levels=num_levels, cdf='tanh'
  ),
  'categorical': lambda num_levels: (
    lambda x0, last: dj.categorical_nll(x0, last.z, last.level, num_levels)
  ),
}


def build_decoder(config):
  """Returns (x0, LastStep) -> -log p(x_0 | z), [B], of evaluation.decoder."""
  facts = {'num_levels': lambda: config.data.num_levels}
  return make(DECODERS, config.evaluation, 'evaluation.decoder', facts)
