"""Diffusion models of images: their schema, which other kinds of model start from."""

from collections.abc import Callable
from typing import TypedDict

import diffusion_jax as dj
from diffusion_jax.app.config.schema import Schema
from diffusion_jax.app.kinds import choices, network, sampling, sections
from diffusion_jax.app.kinds.contracts import CONTRACTS
from diffusion_jax.app.kinds.couplings import NOISY_STEP
from diffusion_jax.app.kinds.rules import GUIDED_ALONE
from diffusion_jax.app.kinds.sampling import ALIASES
from diffusion_jax.metrics import table

COMMON = 'data', 'optimizer', 'edit'

SCHEMA = Schema(
  'a diffusion model',
  tables=choices.TABLES,
  choices=('schedule', 'network', 'noise_input', 'parametrization', 'objective', 'latent', *COMMON),
  optional=('latent', 'data'),
  parts={
    **sections.COMMON,
    'sampling': sampling.DenoiserSampling,
    'conditioning': network.Conditioning,
  },
  facts={
    'network': ('in_channels', 'out_channels', 'inputs', 'gamma_min', 'gamma_max'),
    'objective': network.ObjectiveFacts.__annotations__,
    'noise_input': ('schedule_steps',),
    'sampler': ('schedule',),
    'schedule': (),
    'data': ('split', 'kept_in'),
    'optimizer': ('total_steps', 'fused', 'stacked'),
    'average': ('batch_size', 'total_steps', 'more_steps'),
    'operator': ('shape',),
    'reward': ('x0',),
  },
  metrics={**table.OF_DIFFUSION, **table.METRICS},
  common={'data': sections.Data},
  rules=(GUIDED_ALONE, NOISY_STEP),
  aliases=ALIASES,
  contracts=CONTRACTS,
)
