"""Variational autoencoders: their sections, choices and rules."""

from dataclasses import dataclass
from typing import Literal

from diffusion_jax.app.kinds import choices, diffusion, sections
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import EDIT, Row
from diffusion_jax.autoencoders import networks as autoencoder, objectives as vae
from diffusion_jax.metrics import table
from diffusion_jax.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class Decoding:
  """Says what the decoder's output means."""

  # the distribution p(x | z) of a pixel; unit_gaussian has variance 1, and
  # bernoulli needs black and white images
  decoder: Literal['logistic', 'gaussian', 'unit_gaussian', 'bernoulli'] = 'logistic'
  # factor of the latents for a diffusion model; None: 1 / their standard
  # deviation
  scale: Positive | None = None


_NETWORKS = {
  'autoencoder': autoencoder.Autoencoder,
  'hierarchical': autoencoder.HierarchicalAutoencoder,
  'perceptron': autoencoder.PerceptronAutoencoder,
}

_RULES = (
  Row(
    lambda c, facts: True,
    'this run is a VAE, which cannot edit pictures: --mode=sample writes '
    'reconstructions and interpolations, and diffusion models can edit',
    EDIT,
  ),
  Row(
    lambda c, facts: next((x for x in ('labels', 'prompt', 'trajectory') if c.sampling[x]), ''),
    'config.sampling.{it} has no effect on a VAE',
  ),
  Row(
    lambda c, facts: c.decoding.decoder == 'bernoulli' and facts.x.levels != 2,
    'config.decoding.decoder=bernoulli has 2 grey levels, and these images {facts.x.levels}: take '
    'logistic, or --config.data=binarized --config.data.source={c.data.name}',
  ),
  Row(
    lambda c, facts: c.objective.get('free_bits') and c.training.machine.accumulate > 1,
    'config.objective.free_bits needs the whole batch: set training.machine.accumulate=1',
  ),
)

SCHEMA = diffusion.SCHEMA._replace(
  kind='a VAE',
  tables={
    **choices.TABLES,
    'objective': {'vae': vae.vae, 'hvae': vae.hvae},
    'network': _NETWORKS,
  },
  choices=('network', 'objective', *COMMON),
  parts={**sections.COMMON, 'decoding': Decoding},
  facts={
    **diffusion.SCHEMA.facts,
    'network': ('image_size', 'out_channels'),
    'objective': ('encode', 'decode', 'log_likelihood', 'num_latents'),
  },
  metrics={**table.OF_VAES, **table.METRICS},
  rules=_RULES,
)
