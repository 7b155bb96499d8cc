"""The metrics by name: a row is a name and its constructor."""

import importlib
import inspect
from collections.abc import Callable, Mapping

from diffusion_jax.metrics import (
  accuracy,
  fid,
  inception_score,
  likelihoods,
  manifolds,
  memorisation,
  mmd,
)
from diffusion_jax.metrics.features import EXTRACTORS
from diffusion_jax.metrics.metric import Metric
from diffusion_jax.ranges import check_choice

Table = Mapping[str, Callable[..., Metric]]

# Metrics of generated images from any source.
METRICS: Table = {
  'fd': fid.fd,
  'sfd': fid.sfd,
  'kid': mmd.kid,
  'is': inception_score.inception,
  'pr': manifolds.pr,
  'dc': manifolds.dc,
  'cmmd': mmd.unit_mmd,
  'accuracy': accuracy.of_samples,
  'memorisation': memorisation.copies,
}

# Metrics of a model on real images.
_PIXELS = {'independent_pixels': likelihoods.independent_pixels}
OF_DIFFUSION: Table = {
  'elbo': likelihoods.elbo,
  'ode': likelihoods.ode,
  **_PIXELS,
}
OF_STATES: Table = {'elbo': likelihoods.state_elbo, **_PIXELS}
OF_OTHERS: Table = _PIXELS
OF_VAES: Table = {
  'elbo': likelihoods.vae_elbo,
  'iw': likelihoods.importance_weighted,
  **_PIXELS,
}
OF_CLASSIFIERS: Table = {'accuracy': accuracy.of_classifier, **_PIXELS}

# The usual names of metrics in Inception's features.
SHORT = {'fid': 'fd_inception', 'sfid': 'sfd_inception'}


def split_name(name: str, table: Table = METRICS) -> tuple[str, str]:
  """Returns (name in the table, features) of a metric as a user names it.

  ('fd', 'inception') for fid, ('fd', 'dinov2') for fd_dinov2, ('fd', '') for
  fd; other names as they are.
  """
  if name in table:
    return name, ''
  short, _, own = SHORT.get(name, name).partition('_')
  return (short, own) if short in table and own in EXTRACTORS else (name, '')


def score_name(score: str, features: str) -> str:
  """Returns the name of a score in these features: fid, precision_dinov2."""
  name = f'{score}_{features}' if features else score
  return {long: short for short, long in SHORT.items()}.get(name, name)


def find(name: str) -> Callable[..., Metric]:
  """Returns the constructor of a metric of samples, or of 'module:attribute'.

  A module is imported, which runs its code. Raises ValueError.
  """
  module, sign, attribute = name.partition(':')
  if not sign:
    check_choice('metric', name, METRICS)
    return METRICS[name]
  try:
    return getattr(importlib.import_module(module), attribute)
  except (AttributeError, ImportError) as error:
    raise ValueError(f'metric {name} cannot be imported: {error}') from error


def make(name: str, num_draws: int) -> Metric:
  """Returns the metric of a name, with the defaults of its constructor.

  num_draws: of the bootstrap, for the metrics that have one.
  """
  constructor = find(name)
  takes_draws = 'num_draws' in inspect.signature(constructor).parameters
  return constructor(num_draws=num_draws) if takes_draws else constructor()
