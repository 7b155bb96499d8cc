"""Held-out pairs: what the draws of a model are given, and the truth that they should predict.

A pair is a context and its x. With levels of elements it is one example, some of whose elements
are given.
"""

from typing import NamedTuple

import numpy as np

from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.laws import moments_of
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.declared import Declared
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import references
from diffusion_jax.metrics.calibration import LEAST_PAIRS
from diffusion_jax.metrics.forecasts import LAW, conditional
from diffusion_jax.metrics.likelihoods import ode
from diffusion_jax.metrics.metric import Arrays


class HeldOutPairs(NamedTuple):
  """M held-out pairs.

  rows: contexts of the draws, [M, ...], with NaN in the elements of x that are drawn; reference:
  `truth`, `context`, and the exact law if it is known; is_drawn: elements of x, bool [T].
  """

  rows: np.ndarray
  reference: Arrays
  is_drawn: np.ndarray | None = None

  def drawn(self, samples: np.ndarray) -> np.ndarray:
    """Returns the part of samples [M n, ...] that the truth has, [M, n, ...]."""
    samples = samples.reshape(len(self.rows), -1, *samples.shape[1:])
    return samples if self.is_drawn is None else samples[:, :, self.is_drawn]


def read(model: Model, with_law: bool = False) -> HeldOutPairs:
  """Reads the first pairs of a split; UserError for elements that cannot be given."""
  c = model.config.evaluation
  source = datasets.source_of(model.config, c.split)
  with from_config('data'):
    arrays = source.read(np.arange(min(c.num_pairs, len(source))))
  x = references.as_written(source, arrays['x'])
  if not model.takes_known:
    context = arrays['context']
    return HeldOutPairs(context, {'truth': x, 'context': context})
  is_given = given_elements(model)
  rows = np.where(is_given.reshape(-1, *[1] * (x.ndim - 2)), x.astype(np.float64), np.nan)
  reference = {'truth': x[:, ~is_given], 'context': x[:, is_given]}
  law = law_of(model, is_given, x) if with_law else {}
  return HeldOutPairs(rows, {**reference, **law}, ~is_given)


def check_enough(model: Model, metric: str, declared: Declared) -> None:
  """Raises UserError for fewer draws, or fewer pairs, than a metric needs."""
  c = model.config.evaluation
  if c.draws_per_pair < declared.least_draws:
    raise UserError(
      f'config.evaluation.draws_per_pair={c.draws_per_pair}: {metric} needs {declared.least_draws} '
      'draws or more for each of the held-out pairs'
    )
  count = min(c.num_pairs, len(datasets.source_of(model.config, c.split)))
  if count < LEAST_PAIRS:
    raise UserError(
      f'config.evaluation.num_pairs={c.num_pairs}: {metric} needs {LEAST_PAIRS} held-out pairs or '
      f'more, and there are {count}'
    )


def given_elements(model: Model) -> np.ndarray:
  """Returns which elements of held-out examples are given, bool [T].

  The first evaluation.num_given ones; None: a half, or all that objective.levels.parameters are
  inferred from. Raises UserError for all elements, for a part of those that share a level, and
  for a sampler with one level for all.
  """
  c, noisy = model.config, model.noisy
  assert noisy is not None  # of a model that takes known elements
  length, shared, count = noisy.state_shape[0], noisy.shared, c.evaluation.num_given
  if c.sampling.sampler.declared.one_level:
    raise UserError(
      f'config.sampling.sampler={c.sampling.sampler.name} has one level for all elements, and '
      'draws for held-out pairs hold the given ones: take another sampler'
    )
  if length == 1:
    raise UserError('config.evaluation.metrics: pairs need an example of two elements or more')
  if count is None and (parameters := c.objective.levels.get('parameters', 0)):
    return np.arange(length) >= parameters
  count = max(shared, length // 2 // shared * shared) if count is None else count
  if count >= length or count % shared:
    raise UserError(
      f'config.evaluation.num_given={count}: an example has {length} elements, and some are drawn: '
      f'give fewer' + f', a multiple of objective.levels.size={shared}' * (shared > 1)
    )
  return np.arange(length) < count


def in_words(model: Model) -> str:
  """Returns how many elements of an example are given: '8 of 32'; '' with a context."""
  if not model.takes_known:
    return ''
  is_given = given_elements(model)
  return f'{is_given.sum()} of {len(is_given)}'


def law_of(model: Model, is_given: np.ndarray, x: np.ndarray) -> Arrays:
  """Returns the exact mean and covariance of the elements that are drawn; see `laws.moments_of`."""
  numbers = np.repeat(is_given, x[0].size // len(is_given))
  mean, cov = moments_of(model.config.data, model.facts)
  law = conditional(mean, cov, numbers, x.reshape(len(x), -1)[:, numbers])
  return dict(zip(LAW, law, strict=True))


def known_arrays(model: Model) -> set[str]:
  """Returns the names of the arrays that metrics of pairs may need; none without pairs."""
  c, known = model.config, {'draws', 'truth', 'context'}
  if model.takes_known:
    has_law = c.data is not None and c.data.declared.moments is not None
    return known | {*LAW} if has_law else known
  if model.conditioning.context is None:
    return set()
  has_density = model.schema.metrics.get('ode') is ode and c.objective.declared.estimates
  return known | {'log_q'} if has_density else known
