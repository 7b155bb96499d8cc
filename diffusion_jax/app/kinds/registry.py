"""The maker of models; the objective of a config decides the kind."""

import dataclasses
import pkgutil

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.runtime.run_folder import RunFolder


def make(
  config: Node,
  run: RunFolder,
  facts: datasets.Facts | None = None,
  workdir: RunFolder | None = None,
) -> Model:
  """Returns the model of a complete config.

  run: the run that is read; facts: the facts of the images; None: read from the data;
  workdir: the folder that is written, by default that of the run.
  """
  workdir = workdir or run
  config = datasets.of_run(config, run, workdir)
  facts = datasets.facts_of(config) if facts is None else facts
  config = datasets.with_conditions(config, facts)
  kind = next(x for x in store.MODULES if x.SCHEMA.kind == config.schema.kind)
  maker = pkgutil.resolve_name(f'{kind.__name__}.model:make')
  model = maker(config, run, facts)
  return dataclasses.replace(model, workdir=workdir)
