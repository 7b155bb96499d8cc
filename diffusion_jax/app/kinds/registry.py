"""The kinds of models; the objective of a config decides the kind."""

from pathlib import Path

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import (
  bridge,
  classifier,
  diffusion,
  flow_map,
  latent,
  schemas,
  states,
  vae,
)
from diffusion_jax.app.kinds.model import Model

KINDS = (
  (schemas.DIFFUSION, diffusion.make),
  (schemas.LATENT_DIFFUSION, latent.make),
  (schemas.FLOW_MAP, flow_map.make),
  (schemas.BRIDGE, bridge.make),
  (schemas.VAE, vae.make),
  (schemas.CLASSIFIER, classifier.make),
  (schemas.STATES, states.make),
)


def make(config: Node, workdir: str | Path, facts: datasets.Facts | None = None) -> Model:
  """Returns the model of a complete config.

  workdir: the run folder; facts: the facts of the images; None: read from the
  data.
  """
  config = datasets.of_run(config, workdir)
  facts = datasets.facts_of(config) if facts is None else facts
  config = datasets.with_conditions(config, facts)
  schema = schemas.kind_of(config)
  (make_kind,) = (make_kind for kind, make_kind in KINDS if kind is schema)
  return make_kind(config, Path(workdir), facts)
