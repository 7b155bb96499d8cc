"""The maker of models; the objective of a config decides the kind."""

import dataclasses
import pkgutil
from pathlib import Path

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model


def make(
  config: Node,
  run: str | Path,
  facts: datasets.Facts | None = None,
  workdir: str | Path | None = '',
) -> Model:
  """Returns the model of a complete config.

  run: the run folder; facts: the facts of the images; None: read from the data;
  workdir: the folder that is written, '' for the run folder, None if nothing is written.
  """
  config = datasets.of_run(config, run, workdir)
  facts = datasets.facts_of(config) if facts is None else facts
  config = datasets.with_conditions(config, facts)
  kind = next(x for x in store.MODULES if x.SCHEMA.kind == config.schema.kind)
  maker = pkgutil.resolve_name(f'{kind.__name__}.model:make')
  model = maker(config, Path(run), facts)
  return dataclasses.replace(model, workdir=Path(workdir or run))
