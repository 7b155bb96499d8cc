"""config.sampling -> a guided denoiser, and the runs that guide it."""

import functools
from typing import Any, NamedTuple

import diffusion_jax as dj
from diffusion_jax.programs import UserError, folder
from diffusion_jax.programs.build_model import (
  abstract_params,
  build_network,
  build_noise_input,
  build_schedule,
  is_classifier,
  label_dropout,
  learns_schedule,
  network_fn,
)
from diffusion_jax.programs.choices import from_config
from diffusion_jax.training import checkpoints
from diffusion_jax.training.classifier import label_log_prob


class Guide(NamedTuple):
  """Another run: its config, and its averaged parameters."""

  config: Any
  params: Any


def check(config):
  """UserError for guidance that this run, or any, cannot have."""
  c = config.sampling
  if is_classifier(config):
    raise UserError(
      'this run is a classifier, which makes no images: name it in '
      '--config.sampling.classifier when sampling another run'
    )
  if c.guidance_scale == 1.0:
    for field, off in (
      ('guidance_run', ''),
      ('guidance_rescale', 0.0),
      ('guidance_min', 0.0),
      ('guidance_max', None),
    ):
      if c[field] != off:
        raise UserError(
          f'config.sampling.{field}={c[field]} has no effect at '
          'sampling.guidance_scale=1, which is no guidance'
        )
  elif not c.guidance_run and not label_dropout(config):
    raise UserError(
      f'config.sampling.guidance_scale={c.guidance_scale} needs a network that '
      'knows no class too: train with conditioning.labels and label_dropout, '
      'or name another run in sampling.guidance_run'
    )
  if c.classifier_scale != 1.0 and not c.classifier:
    raise UserError(
      f'config.sampling.classifier_scale={c.classifier_scale} needs '
      'sampling.classifier, the workdir of a run of objective.name=classifier'
    )


def find_guides(config):
  """{field of config.sampling: Guide} of the other runs that are named."""
  check(config)
  c = config.sampling
  fields = ('guidance_run', 'classifier')
  return {f: _restore(config, f, c[f]) for f in fields if c[f]}


def _restore(config, field, workdir):
  found = folder.run_config(workdir, config)
  wanted = field == 'classifier'
  if is_classifier(found) != wanted:
    other = 'is no classifier' if wanted else 'is a classifier'
    raise UserError(f'config.sampling.{field}: the run in {workdir} {other}')
  if wanted:
    same = ('image_shape', 'num_classes')
  else:
    same = ('image_shape',)
  for name in same:
    if found.data[name] != config.data[name]:
      raise UserError(
        f'config.sampling.{field}: data.{name} is {found.data[name]} in '
        f'{workdir}, {config.data[name]} in this run'
      )
  with from_config(f'sampling.{field}'):
    params, _ = checkpoints.restore_params(
      workdir, True, abstract_params(found), 'latest'
    )
  return Guide(found, params)


def of_network(config, params, cond, make=dj.make_denoiser):
  """What `make` makes of the run's network, told of cond what it knows."""
  knows = {
    'label': config.conditioning.labels,
    'x0': config.conditioning.self_conditioning,
  }
  return make(
    network_fn(build_network(config)),
    params['network'],
    parametrization=config.objective.parametrization,
    noise_input=build_noise_input(config),
    cond={name: x for name, x in cond.items() if knows.get(name, True)},
    learned_variance=config.network.learned_variance,
    sigma_data=config.objective.sigma_data,
  )


def guided(config, params, cond, guides):
  """The denoiser of the config's network, guided as config.sampling says.

  cond['label'] is what a classifier is asked for, whether or not the network
  knows labels.
  """
  c = config.sampling
  denoise = of_network(config, params, cond)
  if c.guidance_scale != 1.0:
    high = float('inf') if c.guidance_max is None else c.guidance_max
    interval = c.guidance_min, high
    denoise = dj.classifier_free(
      _pair(config, params, cond, guides.get('guidance_run'), denoise),
      c.guidance_scale,
      c.guidance_rescale,
      interval,
    )
  if 'classifier' in guides:
    log_prob_fn = _log_prob(config, guides['classifier'], cond['label'])
    denoise = dj.classifier_guided(denoise, log_prob_fn, c.classifier_scale)
  return denoise


def _pair(config, params, cond, guide, denoise):
  if guide is None:
    return of_network(config, params, cond, dj.make_paired_denoiser)
  other = of_network(*guide, cond)
  return dj.paired(denoise, _at_levels_of(config, guide, other))


def build_logits(config, params):
  """The config's classifier: (x_t, level) -> logits [B, num_classes]."""
  return functools.partial(
    dj.network_output,
    network_fn(build_network(config)),
    params['network'],
    parametrization=config.objective.parametrization,
    noise_input=build_noise_input(config),
    cond={},
    sigma_data=config.objective.sigma_data,
  )


def _log_prob(config, guide, label):
  logits = build_logits(*guide)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), label)

  return _at_levels_of(config, guide, log_prob)


def _at_levels_of(config, guide, function):
  # of (x, level), which the other run may have seen on another schedule
  if guide.config.schedule == config.schedule and not learns_schedule(config):
    return function
  schedule = build_schedule(guide.config, guide.params)
  return dj.at_training_levels(function, schedule)
