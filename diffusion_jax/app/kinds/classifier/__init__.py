"""Classifiers of noisy images: their choices and rules."""

from diffusion_jax.app.kinds import choices, diffusion, sections
from diffusion_jax.app.kinds.diffusion import COMMON
from diffusion_jax.app.kinds.rules import Row
from diffusion_jax.metrics import table
from diffusion_jax.networks import unet
from diffusion_jax.training import (
  classifier,
)

SCHEMA = diffusion.SCHEMA._replace(
  kind='a classifier',
  tables={
    **choices.TABLES,
    'objective': {'classifier': classifier.classifier},
    'network': {'classifier': unet.NoisyClassifier},
  },
  choices=('schedule', 'network', 'noise_input', 'parametrization', 'objective', *COMMON),
  parts=sections.COMMON,
  facts={**diffusion.SCHEMA.facts, 'network': ('in_channels', 'num_classes')},
  metrics=table.OF_CLASSIFIERS,
  rules=(
    Row(
      lambda c, facts: True,
      'this run is a classifier, which makes no images: sample another run with '
      '--config.sampling.classifier.run=<this one>',
      ('sample', 'edit'),
    ),
  ),
)
