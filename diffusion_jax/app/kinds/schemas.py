"""The kinds of models, and the constructors of the sections of their configs."""

from collections.abc import Iterator

from diffusion_jax.app.config.schema import Constructor, parameters
from diffusion_jax.app.config.tree import below
from diffusion_jax.app.kinds import (
  autoencoders,
  bridges,
  classifier,
  diffusion,
  discrete,
  few_steps,
  geodesic_flows,
  labelled,
  latent,
  table_rows,
)

# A module for each kind; its `model` has the maker, which `run.weights.make_model` calls.
MODULES = (
  latent,
  diffusion,
  few_steps,
  bridges,
  classifier,
  autoencoders,
  discrete,
  table_rows,
  geodesic_flows,
  labelled,
)
KINDS = tuple(module.SCHEMA for module in MODULES)


def constructors() -> Iterator[tuple[str, Constructor]]:
  """Yields (path, constructor) of each section of any kind, and of the choices in these."""
  for kind in KINDS:
    tops = [(path, x) for path in kind.choices for x in kind.table(path).values()]
    for path, constructor in [*tops, *kind.common.items(), *kind.parts.items()]:
      yield path, constructor
      for name in parameters(constructor):
        inner = below(path, name)
        yield from ((inner, x) for x in kind.table(inner).values() if inner != path)
