"""The sections of the configs of each kind of model."""

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Tree
from diffusion_jax.app.config import fields, tables
from diffusion_jax.app.config.errors import check_one_of
from diffusion_jax.app.config.tree import Schema
from diffusion_jax.core.transitions import StateProcess
from diffusion_jax.metrics import table
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
  tables.TABLES,
  (
    'schedule', 'network', 'noise_input', 'parametrization', 'objective',
    'latent', *_COMMON,
  ),
  ('latent', 'data'),
  {
    **fields.COMMON,
    'sampling': fields.DenoiserSampling,
    'conditioning': fields.Conditioning,
  },
  {
    'network': (
      'in_channels', 'out_channels', 'inputs', 'gamma_min', 'gamma_max',
    ),
    'objective': ObjectiveFacts.__annotations__,
    'noise_input': ('schedule_steps',),
    'sampler': ('schedule',),
    'schedule': (),
    'data': ('split',),
    'optimizer': ('total_steps',),
    'operator': ('shape',),
    'reward': ('x0',),
  },
  {**table.OF_DIFFUSION, **table.METRICS},
)  # fmt: skip

# The last term of hybrid's bound treats latents as grey levels, as DiT does
# (Peebles & Xie 2023). Other bounds need pixels.
_OF_LATENTS = {n: tables.DENOISING[n] for n in ('denoising', 'hybrid')}
LATENT_DIFFUSION = DIFFUSION._replace(
  kind='a diffusion model of latents',
  tables={**tables.TABLES, 'objective': _OF_LATENTS},
  metrics={**table.OF_LATENTS, **table.METRICS},
)

# Without a parametrization, sigma_data is a field.
_OF_MAPS = {*ObjectiveFacts.__annotations__} - {'sigma_data'}
FLOW_MAP = DIFFUSION._replace(
  kind='a flow map',
  tables={**tables.TABLES, 'objective': tables.FLOW_MAPS},
  choices=('schedule', 'network', 'noise_input', 'objective', *_COMMON),
  parts={**DIFFUSION.parts, 'sampling': fields.MapSampling},
  facts={**DIFFUSION.facts, 'objective': _OF_MAPS},
  metrics={**table.OF_OTHERS, **table.METRICS},
)

CLASSIFIER = DIFFUSION._replace(
  kind='a classifier',
  tables={
    **tables.TABLES,
    'objective': {'classifier': classifier.classifier},
    'network': tables.CLASSIFIERS,
  },
  choices=DIFFUSION.choices[:5] + _COMMON,
  parts=fields.COMMON,
  facts={**DIFFUSION.facts, 'network': ('in_channels', 'num_classes')},
  metrics=table.OF_CLASSIFIERS,
)

VAE = DIFFUSION._replace(
  kind='a VAE',
  tables={
    **tables.TABLES,
    'objective': {'vae': vae.vae, 'hvae': vae.hvae},
    'network': tables.AUTOENCODERS,
  },
  choices=('network', 'objective', *_COMMON),
  parts={**fields.COMMON, 'decoding': fields.Decoding},
  facts={
    **DIFFUSION.facts,
    'network': ('image_size', 'out_channels'),
    'objective': ('encode', 'decode', 'log_likelihood', 'num_latents'),
  },
  metrics={**table.OF_VAES, **table.METRICS},
)

STATES = DIFFUSION._replace(
  kind='a diffusion model of states',
  tables={**tables.TABLES, **tables.STATES},
  choices=(
    'schedule', 'transitions', 'network', 'noise_input', 'objective', *_COMMON,
  ),
  parts={**DIFFUSION.parts,
    'sampling': fields.StateSampling,
    'states': fields.States,
 },
  facts={**DIFFUSION.facts,
    # It embeds the states itself.
    'network': tuple(DIFFUSION.facts['network'])[1:],
    **dict.fromkeys(
      ('objective', 'transitions', 'sampler'), (*StateFacts.__annotations__,)
    ),
 },
  metrics={**table.OF_STATES, **table.METRICS},
)  # fmt: skip

KINDS = DIFFUSION, FLOW_MAP, CLASSIFIER, VAE, STATES


def kind_of(tree: Tree) -> Schema:
  """Returns the schema of a config, which its objective decides.

  An objective from a user's module belongs to a diffusion model.
  """
  name, latent = tree.get('objective'), tree.get('latent')
  if isinstance(name, Mapping):
    name = name.get('name')
  if isinstance(latent, Mapping):
    latent = latent.get('name', 'autoencoder')
  if latent not in (None, '', 'None'):
    return LATENT_DIFFUSION
  if name is None or ':' in str(name):
    return DIFFUSION
  every = {n: kind for kind in KINDS for n in kind.tables['objective']}
  check_one_of(list(every), 'objective', name)
  return every[name]
