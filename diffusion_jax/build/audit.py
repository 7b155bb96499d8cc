"""Refuses fields that are set and that nothing takes.

A section's fields belong to constructors, which its choices name, or are read
by the programs (DIRECT). What is set must be one or the other.
"""

import copy
import inspect
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from diffusion_jax.build import data, network, objective, sampling, schedule
from diffusion_jax.build.make import choose, parameters
from diffusion_jax.errors import UserError

# Fields that programs and builders read themselves.
DIRECT = {
  'data': """
    name image_shape num_classes num_levels random_flip data_dir num_threads
  """,
  'schedule': 'name num_steps',
  'network': 'name learned_variance matmul_precision',
  'conditioning': """
    noise_input labels text self_conditioning image
  """,
  'objective': 'name parametrization sigma_data augment uncertainty',
  'sampling': """
    sampler num_steps schedule spacing respacing corrector_steps
    churn guidance_scale guidance_rescale guidance_min guidance_max
    guidance_channels guidance_run classifier classifier_scale clip
    clip_before_classifier dynamic_threshold num_samples batch_size labels
    prompt ema ema_decay ema_sigma_rel
    checkpoint seed trajectory name
  """,
}
DIRECT = {section: fields.split() for section, fields in DIRECT.items()}

# Choices within a section, and fields of no constructor: the parameters, or the
# fields and values of the section, of which one must be there for the field to
# have an effect; and the value of configs/base.py, which has none.
PARTS = {
  'conditioning': {
    'dropout': (('labels', 'text', 'image'), 0.0),
    'text_length': (('text',), 64),
    'image_factor': (('superres',), 2),
  },
  'objective': {
    'times': (('times', 'loss_aware', 'easy'), 'steps'),
    'weight': (('weight',), 'snr'),
    'decoder': (('log_likelihood',), 'logistic'),
  },
  'sampling': {'variance': (('variance',), 'fixed_small')},
}

# Fields on which it depends what others are taken.
CHOICES = (
  'data.name',
  'schedule.name',
  'schedule.alphas',
  'network.name',
  'conditioning.labels',
  'conditioning.text',
  'conditioning.image',
  'conditioning.noise_input',
  'objective.name',
  'objective.times',
  'objective.weight',
  'objective.pairs',
  'objective.distance',
  'sampling.sampler',
  'sampling.churn',
  'sampling.corrector_steps',
)


# Names of former versions, which stored runs have: of fields, and of values.
RENAMED_FIELDS = {
  'conditioning.label_dropout': 'conditioning.dropout',
  'evaluation.every': 'training.evaluate_every',
  'evaluation.num_batches': 'training.evaluate_batches',
}
RENAMED_VALUES = {
  'objective.name': {'ddpm': 'denoising'},
  'conditioning.image': {'inpainting': 'inpaint', 'gray': 'colorize'},
  'edit.task': {'colour': 'colorize'},
}


def rename_fields(stored: Any) -> Any:
  """Returns a stored config with the fields and values as they are called now.

  stored: {section: {field: value}, ...}, of which sections may be missing.
  """
  found = copy.deepcopy(stored)
  for old, new in RENAMED_FIELDS.items():
    (section, field), (new_section, new_field) = old.split('.'), new.split('.')
    if field in found.get(section, {}) and new_section in found:
      found[new_section][new_field] = found[section].pop(field)
  rename_values(found)
  return found


def rename_values(config: Any) -> None:
  """Replaces values of former versions by the names that they have now."""
  for field, names in RENAMED_VALUES.items():
    section, name = field.split('.')
    if section in config and config[section].get(name) in names:
      config[section][name] = names[config[section][name]]


def audit(config: Any) -> None:
  """Raises UserError for the first section with a field that nothing takes."""
  for section in DIRECT:
    unused = _unused(config, section)
    if unused:
      raise UserError(f'config.{section}: {_explain(config, section, unused)}')


def _explain(config, section, unused):
  chosen, *_ = constructors(config, section)
  if section == 'conditioning' and unused[0] in PARTS[section]:
    needed, _ = PARTS[section][unused[0]]
    return f'{unused[0]} has no effect without {", ".join(needed)}'
  known = [n for n in _taken(config, section) if n in config[section]]
  return (
    f'{chosen} takes no {", ".join(unused)}; it takes '
    f'{", ".join(known) or "none of these fields"}'
  )


def reset_unused(config: Any, overrides: Collection[str]) -> None:
  """Resets what a config file set for a choice that `overrides` changed.

  overrides: the fields given on the command line, 'section.field', which are
  never reset: `audit` refuses those that are not taken.
  """
  if set(overrides) & set(CHOICES):
    drop_unused(config, DIRECT, overrides)


def drop_unused(
  config: Any, sections: Collection[str], keep: Collection[str] = ()
) -> None:
  """Resets what nothing takes in these sections, but for the fields `keep`.

  Of runs of older versions, which stored all fields, also those that had no
  effect.
  """
  rename_values(config)
  for section in [name for name in sections if name in DIRECT]:
    for name in _unused(config, section):
      if f'{section}.{name}' not in keep:
        _, default = PARTS.get(section, {}).get(name, ((), None))
        config[section][name] = default


def complete(config: Any) -> Any:
  """Returns a copy with the default of each parameter that is not set.

  What a run stores: a default that changes later does not change the run.
  """
  config = config.copy_and_resolve_references()
  for section in DIRECT:
    fields = config[section]
    for constructor in constructors(config, section).values():
      for name, parameter in parameters(constructor).items():
        if name in fields and fields[name] is None:
          value = _plain(parameter.default)
          if value is not None:
            fields[name] = value
  return config


def _plain(value: Any):
  # Returns None for what cannot be stored: no default, or an object.
  if isinstance(value, (bool, int, float, str, tuple)):
    return value
  if not isinstance(value, type) or value is inspect.Parameter.empty:
    return None
  kind: Any = value
  return np.dtype(kind).name


def constructors(config: Any, section: str) -> dict[str, Callable]:
  """Returns those that the choices of a section name; the first is its root."""
  return _CONSTRUCTORS[section](config)


def _data(config):
  name = config.data.name
  if not name:  # --mode=noise needs none.
    return {'no data set': lambda: None}
  return {name: choose(data.SOURCES, 'data', 'name', name)}


def _schedule(config):
  c = config.schedule
  name = c.name if c.alphas is None else 'alphas'
  found = {name: schedule.schedule_constructor(config)}
  takes = parameters(network.network_constructor(config))
  if 'gamma_min' in takes:  # The network scales its input by both ends.
    found[config.network.name] = lambda gamma_min=None, gamma_max=None: None
  return found


def _conditioning(config):
  name = config.conditioning.noise_input
  known = network.NOISE_INPUTS
  return {name: choose(known, 'conditioning', 'noise_input', name)}


def _objective(config):
  c = config.objective
  root = choose(objective.OBJECTIVES, 'objective', 'name', c.name)
  found = {c.name: root}
  takes = parameters(root)
  if 'times' in takes:
    found[c.times] = choose(objective.TIMES, 'objective', 'times', c.times)
  if 'weight' in takes:
    known = objective.WEIGHTS
    found[c.weight] = choose(known, 'objective', 'weight', c.weight)
  if 'pairs' in takes and c.pairs:
    known = objective.PAIRS
    found[c.pairs] = choose(known, 'objective', 'pairs', c.pairs)
    if 'times' in parameters(found[c.pairs]):
      found[c.times] = choose(objective.TIMES, 'objective', 'times', c.times)
  if 'distance' in takes and c.distance:
    known = objective.DISTANCES
    found[c.distance] = choose(known, 'objective', 'distance', c.distance)
  return found


def _sampling(config):
  c = config.sampling
  found = {
    c.sampler: choose(sampling.SAMPLERS, 'sampling', 'sampler', c.sampler)
  }
  if c.churn:
    found['churn'] = sampling.CHURN
  if c.corrector_steps:
    found['corrector'] = sampling.CORRECTOR
  return found


_CONSTRUCTORS = {
  'data': _data,
  'schedule': _schedule,
  'network': lambda config: {
    config.network.name: network.network_constructor(config)
  },
  'conditioning': _conditioning,
  'objective': _objective,
  'sampling': _sampling,
}


def _taken(config, section):
  # Returns the parameters of all constructors of a section, in order.
  found = {}
  for constructor in constructors(config, section).values():
    found |= parameters(constructor)
  return list(found)


def _unused(config, section):
  taken, fields = set(_taken(config, section)), config[section]
  parts = PARTS.get(section, {})
  unused = [
    name
    for name in fields
    if fields[name] is not None
    and name not in taken
    and name not in DIRECT[section]
    and name not in parts
  ]
  root = next(iter(constructors(config, section).values()))
  there = {*parameters(root)} | {n for n in fields if fields[n] is True}
  if section == 'conditioning' and fields.image:
    there |= {'image', fields.image}
  if section == 'objective' and 'pairs' in there:
    there |= {fields.pairs}
  for name, (needed, default) in parts.items():
    if fields[name] != default and not set(needed) & there:
      unused.append(name)
  return unused
