"""The sections of the configs of each kind of model."""

from collections.abc import Callable
from typing import TypedDict

from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.app import choices, sections, state_choices
from diffusion_jax.app.config import Schema, check_one_of
from diffusion_jax.app.sections import Conditioning
from diffusion_jax.metrics import table
from diffusion_jax.training import classifier, objectives, vae


class NetworkFacts(TypedDict):
  """The parameters of networks that follow from the rest of a config."""

  out_channels: int
  num_classes: int
  null_class: bool
  self_conditioning: bool
  image_channels: int
  augment_dim: int
  text_width: int
  text_layers: int
  text_heads: int
  elapsed: bool
  guidance_input: bool
  gamma_min: float | None
  gamma_max: float | None


class ObjectiveFacts(TypedDict):
  """The parameters of objectives that follow from the rest of a config.

  schedule: None for a learned schedule; teacher: (frozen, cond) -> Denoiser.
  """

  network: objectives.Network
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


# The facts of an objective of VAEs, which are attributes of their models.
OF_VAES = 'encode', 'decode', 'log_likelihood', 'num_latents'


_COMMON = 'data', 'optimizer', 'edit'

DIFFUSION = Schema(
  'a diffusion model',
  choices.TABLES,
  (
    'schedule', 'network', 'noise_input', 'parametrization', 'objective',
    'latent', *_COMMON,
  ),
  ('latent', 'data'),
  {
    **sections.COMMON,
    'sampling': sections.DenoiserSampling,
    'conditioning': Conditioning,
  },
  {
    'network': NetworkFacts.__annotations__,
    'objective': ObjectiveFacts.__annotations__,
    'noise_input': ('schedule_steps',),
    'sampler': ('schedule',),
    'schedule': (),
    'data': ('split',),
    'optimizer': ('total_steps',),
  },
  {**table.OF_DIFFUSION, **table.METRICS},
)  # fmt: skip

# The last term of hybrid's bound treats latents as grey levels, as DiT does
# (Peebles & Xie 2023). Other bounds need pixels.
_OF_LATENTS = {n: choices.DENOISING[n] for n in ('denoising', 'hybrid')}
LATENT_DIFFUSION = DIFFUSION._replace(
  kind='a diffusion model of latents',
  tables={**choices.TABLES, 'objective': _OF_LATENTS},
  metrics={**table.OF_OTHERS, **table.METRICS},
)

# Without a parametrization, sigma_data is a field.
_OF_MAPS = {*ObjectiveFacts.__annotations__} - {'sigma_data'}
FLOW_MAP = DIFFUSION._replace(
  kind='a flow map',
  tables={**choices.TABLES, 'objective': choices.FLOW_MAPS},
  choices=('schedule', 'network', 'noise_input', 'objective', *_COMMON),
  parts={**DIFFUSION.parts, 'sampling': sections.MapSampling},
  facts={**DIFFUSION.facts, 'objective': _OF_MAPS},
  metrics=LATENT_DIFFUSION.metrics,
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
    'objective': OF_VAES,
  },
  metrics={**table.OF_VAES, **table.METRICS},
)

STATES = DIFFUSION._replace(
  kind='a diffusion model of states',
  tables={**choices.TABLES, **state_choices.TABLES},
  choices=(
    'schedule', 'transitions', 'network', 'noise_input', 'objective', *_COMMON,
  ),
  parts={**DIFFUSION.parts, **state_choices.PARTS},
  facts={**DIFFUSION.facts, **state_choices.FACTS},
  metrics={**table.OF_STATES, **table.METRICS},
)  # fmt: skip

KINDS = DIFFUSION, FLOW_MAP, CLASSIFIER, VAE, STATES


def schema_of(config: ConfigDict) -> Schema:
  """Returns the schema of a config, which its objective decides.

  An objective from a user's module belongs to a diffusion model.
  """
  section = config.get('objective')
  name = (
    section if section is None or isinstance(section, str) else section.name
  )
  if config.get('latent') is not None:
    return LATENT_DIFFUSION
  if name is None or ':' in name:
    return DIFFUSION
  every = {n: kind for kind in KINDS for n in kind.tables['objective']}
  check_one_of(list(every), 'objective', name)
  return every[name]
