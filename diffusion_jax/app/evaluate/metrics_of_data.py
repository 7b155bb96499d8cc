"""The metrics that follow from the data, for evaluation.metrics=auto."""

import dataclasses
import math
from collections.abc import Callable

from diffusion_jax.aliases import Json
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.evaluate.held_out_pairs import known_arrays
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.calibration import LEAST_PAIRS
from diffusion_jax.metrics.forecasts import LAW

OF_SETS = 'sliced_w2', 'energy', 'moments'
OF_GAPS = ('moments',)
OF_DIRECTIONS = ('chordal_energy',)
OF_ROWS = 'shape', 'trend', 'alpha_precision', 'copies', 'categories', 'detection'
LEAST_ROWS = 50  # of a split, with which a classifier finds anything
_LIKELIHOODS = 'elbo', 'ode'  # the first of them that a model has
OF_PAIRS = 'sbc', 'interval_coverage', 'tarp', 'contraction'
OF_LAW = ('predictive',)
OF_FORECASTS = 'crps', 'interval_coverage', 'order_gap'
# Numbers of all calls of the network in a bound, above which the loss is taken: a U-Net's
# minutes on two cores.
MOST_NUMBERS = 1e8
MOST_PICTURES = 1000  # that are drawn, where only samples can be compared


def chosen(model: Model) -> Model:
  """Returns the model with the metrics that evaluation.metrics=auto stands for.

  The fields of evaluation that have their defaults follow, too: as many samples as
  training examples where OF_SETS compare them, and the train split for the loss of pictures
  if none are held out.
  """
  c = model.config.evaluation
  if store.AUTO not in c.metrics:
    return model
  at, changes = c.metrics.index(store.AUTO), of_data(model)
  names = dict.fromkeys((*c.metrics[:at], *changes['metrics'], *c.metrics[at + 1 :]))
  if not names:
    raise UserError(
      'config.evaluation.metrics=auto: no metric is of these data, which have lengths'
    )
  changes = {f'evaluation.{n}': x for n, x in changes.items()} | {'evaluation.metrics': (*names,)}
  changed = store.with_fields(model.config, changes)
  config = model.config.replace(evaluation=changed.evaluation)
  return dataclasses.replace(model, config=dataclasses.replace(config, schema=changed.schema))


def of_data(model: Model) -> Json:
  """Returns the metrics for a model and its data, and the fields that go with them.

  A bound or the likelihood of held-out examples, if there are any, or the training's loss
  if it is much cheaper. Of real numbers, and without these, samples are compared, too:
  draws given held-out contexts, or a part of an example, with their truths, or else samples
  with training examples.
  """
  c, facts, of_kind = model.config, model.facts, model.schema.metrics
  if facts.x.kinds:
    return {'metrics': _of_rows(model), **fewer(model)}
  if facts.x.manifold:
    return {'metrics': OF_DIRECTIONS, **fewer(model)}
  if facts.gaps:
    return {'metrics': OF_GAPS, **fewer(model)}
  if model.plan is None:
    return {'metrics': (next(iter(of_kind)),)}
  likelihood = tuple(n for n in _LIKELIHOODS if n in of_kind and is_of(of_kind[n], c, facts))[:1]
  try:
    held_out = len(datasets.source_of(c, c.evaluation.split))
  except UserError as error:
    if facts.x.is_text or not isinstance(error.__cause__, NoTestSplit):
      raise
    if facts.x.is_picture and model.losses is not None:
      return {'metrics': ('loss',), 'split': 'train'}
    held_out, likelihood = 0, ()
  if likelihood and facts.x.levels:
    return {'metrics': ('loss',) if _is_long(model, held_out) else likelihood}
  given = conditions.stored_names(model) - {'context'}
  count = min(held_out, c.evaluation.num_pairs)
  has_pairs = count >= LEAST_PAIRS and not given and not facts.lengths
  if has_pairs and model.takes_known and model.noisy and model.noisy.levels_differ:
    law = OF_LAW if {*LAW} <= known_arrays(model) else ()
    return {'metrics': _among(of_kind, law + OF_FORECASTS, c, facts)}
  if has_pairs and model.conditioning.context is not None:
    return {'metrics': _among(of_kind, OF_PAIRS, c, facts) + likelihood}
  return {'metrics': _among(of_kind, OF_SETS, c, facts) + likelihood, **fewer(model)}


def _of_rows(model):
  # Returns the metrics of a table that its columns and rows allow.
  x, counts = model.facts.x, [len(datasets.source_of(model.config))]
  try:
    counts.append(len(datasets.source_of(model.config, 'test')))
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
  lacks = {'trend'} if len(x.names) < 2 else set()
  lacks |= set() if any(x.categories) else {'categories'}
  lacks |= {'detection'} if min(counts) < LEAST_ROWS else set()
  return tuple(name for name in OF_ROWS if name not in lacks)


def _among(of_kind, names, c, facts):
  # Returns the names that this kind has, and that are of these data.
  return tuple(name for name in names if name in of_kind and is_of(of_kind[name], c, facts))


def is_of(metric: Callable, c: Node, facts: Facts) -> bool:
  """Returns whether a metric can be of these data and of what this objective trains."""
  asks = declared_by(metric)
  return not (
    asks.data == 'levels'
    and not facts.x.levels
    or asks.independent_noise
    and c.at('objective.coupling')
    or asks.needs_denoiser
    and not c.objective.declared.estimates
    or facts.lengths
    and not asks.lengths
    or asks.least_draws > c.evaluation.draws_per_pair
  )


def _is_long(model, held_out):
  # Returns whether the bound takes much longer than the loss.
  c = model.config.evaluation
  if model.losses is None or 'elbo' not in c:
    return False
  count = min(held_out, c.num_images or held_out)
  calls = c.elbo.make().calls(model.measured, None)
  return calls * count * math.prod(model.facts.x.shape) > MOST_NUMBERS


def fewer(model: Model) -> Json:
  """Returns num_generated for comparisons with training examples, if it is the default."""
  c = model.config
  if c.evaluation.num_generated != Evaluation.num_generated:
    return {}
  most = MOST_PICTURES if model.facts.x.is_picture else Evaluation.num_generated
  return {'num_generated': min(most, len(datasets.source_of(c)))}
