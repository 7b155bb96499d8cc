"""The sections of the configs of each kind of model."""

from collections.abc import Callable, Collection, Mapping
from typing import TypedDict

from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.app import choices, sections, state_choices
from diffusion_jax.app.config import Constructor, Schema, Table, check_one_of
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


def _schema(
  kind: str,
  tables: Mapping[str, Table],
  choices_: Collection[str],
  parts: Mapping[str, Constructor],
  facts: Mapping[str, Collection[str]],
  metrics: Table,
) -> Schema:
  objective = {*facts['objective']}
  if 'parametrization' not in choices_:  # sigma_data is a field instead
    objective -= {'sigma_data'}
  return Schema(
    kind,
    choices.TABLES | dict(tables),
    (*choices_, 'data', 'optimizer', 'edit'),
    ('latent', 'data'),
    {**sections.COMMON, **parts, 'plan': sections.Plan},
    {
      **facts,
      'objective': objective,
      'schedule': (),
      'data': ('split',),
      'optimizer': ('total_steps',),
    },
    metrics,
  )


_FACTS = {
  'network': NetworkFacts.__annotations__,
  'objective': ObjectiveFacts.__annotations__,
  'noise_input': ('schedule_steps',),
  'sampler': ('schedule',),
}

DIFFUSION = _schema(
  'a diffusion model',
  {'objective': choices.DENOISING, 'network': choices.DENOISERS},
  (
    'schedule',
    'network',
    'noise_input',
    'parametrization',
    'objective',
    'latent',
  ),
  {'conditioning': Conditioning, 'sampling': sections.DenoiserSampling},
  _FACTS,
  {**table.OF_DIFFUSION, **table.METRICS},
)

# The last term of hybrid's bound treats latents as grey levels, as DiT does
# (Peebles & Xie 2023). Other bounds need pixels.
LATENT_DIFFUSION = _schema(
  'a diffusion model of latents',
  {
    'objective': {
      name: choices.DENOISING[name] for name in ('denoising', 'hybrid')
    },
    'network': choices.DENOISERS,
  },
  DIFFUSION.choices[:6],
  DIFFUSION.parts,
  _FACTS,
  {**table.OF_OTHERS, **table.METRICS},
)

FLOW_MAP = _schema(
  'a flow map',
  {'objective': choices.FLOW_MAPS, 'network': choices.DENOISERS},
  ('schedule', 'network', 'noise_input', 'objective'),
  {'conditioning': Conditioning, 'sampling': sections.MapSampling},
  _FACTS,
  {**table.OF_OTHERS, **table.METRICS},
)

CLASSIFIER = _schema(
  'a classifier',
  {
    'objective': {'classifier': classifier.classifier},
    'network': choices.CLASSIFIERS,
  },
  ('schedule', 'network', 'noise_input', 'parametrization', 'objective'),
  {},
  _FACTS,
  table.OF_CLASSIFIERS,
)

VAE = _schema(
  'a VAE',
  {
    'objective': {'vae': vae.vae, 'hvae': vae.hvae},
    'network': choices.AUTOENCODERS,
  },
  ('network', 'objective'),
  {'decoding': sections.Decoding},
  {'network': ('image_size', 'out_channels'), 'objective': OF_VAES},
  {**table.OF_VAES, **table.METRICS},
)

STATES = _schema(
  'a diffusion model of states',
  state_choices.TABLES,
  ('schedule', 'transitions', 'network', 'noise_input', 'objective'),
  {'conditioning': Conditioning, **state_choices.PARTS},
  {**_FACTS, **state_choices.FACTS},
  {**table.OF_STATES, **table.METRICS},
)

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
