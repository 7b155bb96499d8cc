"""The makers of models; the objective of a config decides the kind."""

from pathlib import Path

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import bridge, classifier, diffusion, flow_map, latent, states, vae
from diffusion_jax.app.kinds.bridge.model import make as make_bridge
from diffusion_jax.app.kinds.classifier.model import make as make_classifier
from diffusion_jax.app.kinds.diffusion.model import make as make_diffusion
from diffusion_jax.app.kinds.flow_map.model import make as make_flow_map
from diffusion_jax.app.kinds.latent.model import make as make_latent
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.states.model import make as make_states
from diffusion_jax.app.kinds.vae.model import make as make_vae

MAKERS = {
  latent.SCHEMA.kind: make_latent,
  diffusion.SCHEMA.kind: make_diffusion,
  flow_map.SCHEMA.kind: make_flow_map,
  bridge.SCHEMA.kind: make_bridge,
  classifier.SCHEMA.kind: make_classifier,
  vae.SCHEMA.kind: make_vae,
  states.SCHEMA.kind: make_states,
}


def make(config: Node, workdir: str | Path, facts: datasets.Facts | None = None) -> Model:
  """Returns the model of a complete config.

  workdir: the run folder; facts: the facts of the images; None: read from the
  data.
  """
  config = datasets.of_run(config, workdir)
  facts = datasets.facts_of(config) if facts is None else facts
  config = datasets.with_conditions(config, facts)
  return MAKERS[config.schema.kind](config, Path(workdir), facts)
