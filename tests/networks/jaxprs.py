"""The operations of traced programs."""

from jax.extend.core import jaxprs_in_params


def equations(jaxpr):
  """Yields all equations of a jaxpr, also those within others."""
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in jaxprs_in_params(eqn.params):
      yield from equations(inner)
