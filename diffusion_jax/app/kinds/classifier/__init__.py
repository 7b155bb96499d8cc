"""Classifiers of noisy images: their choices and rules."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, NotRequired, TypedDict

import jax

import diffusion_jax as dj
from diffusion_jax.app.config.rules import EDIT, EVALUATE, TRAIN, Row
from diffusion_jax.app.config.tree import Node, Schema
from diffusion_jax.app.edit import methods, pictures
from diffusion_jax.app.edit.methods import condition_of
from diffusion_jax.app.kinds import choices, diffusion, sections
from diffusion_jax.app.kinds.choices import DATA, SCHEDULES, TIMES, deferred, named
from diffusion_jax.app.kinds.conflicts import DENOISED, GUIDED_ALONE
from diffusion_jax.app.kinds.couplings import NOISY_STEP
from diffusion_jax.app.kinds.diffusion import COMMON, ObjectiveFacts
from diffusion_jax.app.kinds.sections import Sampling
from diffusion_jax.core import flow_losses
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.transitions import StateProcess, gaussian_steps
from diffusion_jax.data.text_files import text_files
from diffusion_jax.metrics import table
from diffusion_jax.networks import autoencoder, unet
from diffusion_jax.ranges import Finite, Positive, Probability, Size
from diffusion_jax.sampling.grids import Spacing
from diffusion_jax.training import (
  bridges,
  classifier,
  consistency,
  couplings,
  discrete_states,
  flow_maps,
  level_pairs,
  vae,
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
