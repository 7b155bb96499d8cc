"""The sections of the configs of each kind of model, and of its metrics."""

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Tree
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.tree import (
  Constructor,
  Schema,
  check_one_of,
  check_section,
  convert,
  parameters,
)
from diffusion_jax.app.kinds import choices, sections
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.core.transitions import StateProcess
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, table
from diffusion_jax.training import classifier, vae


class ObjectiveFacts(TypedDict):
  """The parameters of objectives that follow from the rest of a config.

  schedule: None for a learned schedule; teacher: (frozen, cond) -> Denoiser.
  """

  network: dj.Network
  schedule: dj.Schedule | None
  make_schedule: Callable[..., dj.Schedule]
  schedule_steps: int
  total_steps: int
  num_levels: int
  sigma_data: float
  sigma_min: float | None
  sigma_max: float | None
  rho: float | None
  teacher: Callable[..., dj.Denoiser] | None


class StateFacts(TypedDict):
  """Parameters of transitions, objectives and samplers that are not fields.

  num_steps: T, None in continuous time; states: batch -> x_0.
  """

  num_values: int
  schedule: dj.Schedule
  num_steps: int | None
  process: NotRequired[StateProcess]
  network: NotRequired[dj.Network]
  states: NotRequired[Callable[[dict], jax.Array]]


_COMMON = 'data', 'optimizer', 'edit'

DIFFUSION = Schema(
  'a diffusion model',
  choices.TABLES,
  ('schedule', 'network', 'noise_input', 'parametrization', 'objective', 'latent', *_COMMON),
  ('latent', 'data'),
  {**sections.COMMON, 'sampling': sections.DenoiserSampling, 'conditioning': sections.Conditioning},
  {
    'network': ('in_channels', 'out_channels', 'inputs', 'gamma_min', 'gamma_max'),
    'objective': ObjectiveFacts.__annotations__,
    'noise_input': ('schedule_steps',),
    'sampler': ('schedule',),
    'schedule': (),
    'data': ('split', 'kept_in'),
    'optimizer': ('total_steps',),
    'operator': ('shape',),
    'reward': ('x0',),
  },
  {**table.OF_DIFFUSION, **table.METRICS},
  {'data': sections.Data},
)

# The last term of hybrid's bound treats latents as grey levels, as DiT does
# (Peebles & Xie 2023). Other bounds need pixels.
_OF_LATENTS = {n: choices.DENOISING[n] for n in ('denoising', 'hybrid')}
LATENT_DIFFUSION = DIFFUSION._replace(
  kind='a diffusion model of latents',
  tables={**choices.TABLES, 'objective': _OF_LATENTS},
  metrics={**table.OF_LATENTS, **table.METRICS},
)

# Without a parametrization, sigma_data is a field.
_OF_MAPS = {*ObjectiveFacts.__annotations__} - {'sigma_data'}
FLOW_MAP = DIFFUSION._replace(
  kind='a flow map',
  tables={**choices.TABLES, 'objective': choices.FLOW_MAPS},
  choices=('schedule', 'network', 'noise_input', 'objective', *_COMMON),
  parts={**DIFFUSION.parts, 'sampling': sections.MapSampling},
  facts={**DIFFUSION.facts, 'objective': _OF_MAPS},
  metrics={**table.OF_OTHERS, **table.METRICS},
)

BRIDGE = DIFFUSION._replace(
  kind='a bridge',
  tables={**choices.TABLES, **choices.BRIDGES},
  choices=FLOW_MAP.choices,
  parts={**DIFFUSION.parts, 'sampling': sections.BridgeSampling},
  metrics=FLOW_MAP.metrics,
)

CLASSIFIER = DIFFUSION._replace(
  kind='a classifier',
  tables={
    **choices.TABLES,
    'objective': {'classifier': classifier.classifier},
    'network': choices.CLASSIFIERS,
  },
  choices=DIFFUSION.choices[:5] + _COMMON,
  parts=sections.COMMON,
  facts={**DIFFUSION.facts, 'network': ('in_channels', 'num_classes')},
  metrics=table.OF_CLASSIFIERS,
)

VAE = DIFFUSION._replace(
  kind='a VAE',
  tables={
    **choices.TABLES,
    'objective': {'vae': vae.vae, 'hvae': vae.hvae},
    'network': choices.AUTOENCODERS,
  },
  choices=('network', 'objective', *_COMMON),
  parts={**sections.COMMON, 'decoding': sections.Decoding},
  facts={
    **DIFFUSION.facts,
    'network': ('image_size', 'out_channels'),
    'objective': ('encode', 'decode', 'log_likelihood', 'num_latents'),
  },
  metrics={**table.OF_VAES, **table.METRICS},
)

_OF_STATES = (*StateFacts.__annotations__,)
STATES = DIFFUSION._replace(
  kind='a diffusion model of states',
  tables={**choices.TABLES, **choices.STATES},
  choices=('schedule', 'transitions', 'network', 'noise_input', 'objective', *_COMMON),
  parts={**DIFFUSION.parts, 'sampling': sections.StateSampling, 'states': sections.States},
  facts={
    **DIFFUSION.facts,
    'network': tuple(DIFFUSION.facts['network'])[1:],  # it embeds states itself
    **dict.fromkeys(('objective', 'transitions', 'sampler'), _OF_STATES),
  },
  metrics={**table.OF_STATES, **table.METRICS},
)

KINDS = DIFFUSION, FLOW_MAP, BRIDGE, CLASSIFIER, VAE, STATES


def kind_of(tree: Tree) -> Schema:
  """Returns the schema of a config, which its objective decides.

  An objective from a user's module belongs to a diffusion model.
  """
  name, latent = tree.get('objective'), tree.get('latent')
  if isinstance(name, Mapping):
    name = name.get('name')
  if isinstance(latent, Mapping):
    latent = latent.get('name', 'autoencoder')
  if str(latent).lower() not in ('', 'none'):
    return LATENT_DIFFUSION
  if name is None or ':' in str(name):
    return DIFFUSION
  every = {n: kind for kind in KINDS for n in kind.tables['objective']}
  check_one_of(list(every), 'objective', name)
  return every[name]


_PATH = 'evaluation.metrics'
AUTO = 'auto'  # the metrics that follow from the data, see `metrics_of_data.chosen`


def of_metrics(tree: Tree, schema: Schema) -> dict[str, Constructor]:
  """Returns the constructors of the sections evaluation.<metric>, by path.

  Each metric that is named, or whose section exists, has one; with AUTO also
  the first of the kind. The section of 'module:attribute' is
  evaluation.<attribute>; it exists if the module may be imported.
  """
  section = tree.get('evaluation', {})
  check_section(section, 'evaluation')
  names = convert(section.get('metrics', Evaluation.metrics), tuple[str, ...], _PATH)
  of_any_kind = {AUTO, *(name for kind in KINDS for name in kind.metrics)}
  for name in names:
    if ':' not in name and name not in of_any_kind:
      check_name(schema, name)
  if AUTO in names:
    names += (next(iter(schema.metrics)),)
  constructors = {
    f'evaluation.{name}': constructor
    for name, constructor in schema.metrics.items()
    if name in names or name in section
  }
  for name in sorted(filter(trust.is_allowed, {*names})):
    path = f'evaluation.{name_of(name)}'
    if path in constructors or name_of(name) in schema.metrics:
      raise UserError(f'config.{_PATH}: {name} has the name of another metric; rename it')
    constructors[path] = trust.find(_PATH, name, ())
  return constructors


def check_name(schema: Schema, name: str) -> None:
  """Raises UserError for a name that is not a metric, such as kid_dinov2."""
  metric, _, space = name.partition('_')
  if metric in schema.metrics and space in features.EXTRACTORS:
    has_own = 'features' in parameters(schema.metrics[metric])
    field = f'{metric}.features' if has_own else 'features'
    raise UserError(f'config.{_PATH}: {name} is {metric} with --config.evaluation.{field}={space}')
  check_one_of(schema.metrics, _PATH, name)


def name_of(name: str) -> str:
  """Returns the name of a metric's section, such as fid or attribute."""
  return name.rpartition(':')[2]
