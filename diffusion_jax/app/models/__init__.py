"""Kinds of models: a class for each, chosen by the objective of a config."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax.app import images
from diffusion_jax.app.config import Schema, check_one_of, from_config
from diffusion_jax.app.models.classifier import Classifier
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.app.models.flow_map import FlowMap
from diffusion_jax.app.models.latent import LatentDiffusion
from diffusion_jax.app.models.model import Model, Params
from diffusion_jax.app.models.vae import VAE
from diffusion_jax.core.keys import abstract_key

KINDS: tuple[type[Any], ...] = Diffusion, FlowMap, VAE, Classifier


def kind_of(config: ConfigDict) -> type[Any]:
  """Returns the class of a config's model: the one with its objective.

  An objective of a user's module is one of a diffusion model.
  """
  section = config.get('objective')
  name = section if section is None or isinstance(section, str) else section.name
  if config.get('latent') is not None:
    return LatentDiffusion
  if name is None or ':' in name:
    return Diffusion
  every = {n: kind for kind in KINDS for n in kind.schema.tables['objective']}
  check_one_of(list(every), 'objective', name)
  return every[name]


def make(
  config: ConfigDict, workdir: str | Path, facts: images.Facts | None = None
) -> Model:
  """Returns the model of a complete config.

  workdir: of the run; facts: of its images, by default read from the data.
  """
  facts = images.facts_of(config) if facts is None else facts
  return kind_of(config)(config, workdir, facts)


def shapes(model: Model) -> Params:
  """Returns the shapes of the parameters of a model."""
  with from_config('network'):
    return jax.eval_shape(model.init, abstract_key())
