"""The kinds of models; the objective of a config decides the class."""

from pathlib import Path

import jax

from diffusion_jax.app import images
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Model, Params
from diffusion_jax.app.models.classifier import Classifier
from diffusion_jax.app.models.diffusion import Diffusion
from diffusion_jax.app.models.flow_map import FlowMap
from diffusion_jax.app.models.latent import LatentDiffusion
from diffusion_jax.app.models.states import StateDiffusion
from diffusion_jax.app.models.vae import VAE
from diffusion_jax.core.keys import abstract_key

KINDS: tuple[type[Model], ...] = (
  Diffusion, LatentDiffusion, FlowMap, VAE, Classifier, StateDiffusion
)  # fmt: skip


def make(
  config: Node, workdir: str | Path, facts: images.Facts | None = None
) -> Model:
  """Returns the model of a complete config.

  workdir: the run folder; facts: the facts of the images; None: read from the
  data.
  """
  facts = images.facts_of(config) if facts is None else facts
  schema = kinds.kind_of(config)
  (kind,) = (kind for kind in KINDS if kind.schema is schema)
  return kind(config, workdir, facts)


def shapes(model: Model) -> Params:
  """Returns the shapes of the parameters of a model."""
  with from_config('network'):
    return jax.eval_shape(model.init, abstract_key())
