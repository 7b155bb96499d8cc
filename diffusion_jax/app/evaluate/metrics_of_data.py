"""The metrics that follow from the data, for evaluation.metrics=auto."""

import dataclasses

from diffusion_jax.aliases import Json
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.sections import Evaluation
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.calibration import LEAST_PAIRS

OF_SETS = 'sliced_w2', 'energy', 'moments'
OF_PAIRS = 'sbc', 'interval_coverage', 'tarp'


def chosen(model: Model) -> Model:
  """Returns the model with the metrics that evaluation.metrics=auto stands for.

  num_generated, if it is the default, becomes at most the number of training
  examples where OF_SETS compare samples with these.
  """
  c, names = model.config, model.config.evaluation.metrics
  if store.AUTO not in names:
    return model
  at, own = names.index(store.AUTO), of_data(model)
  names = dict.fromkeys((*names[:at], *own, *names[at + 1 :]))
  changes: Json = {'evaluation.metrics': tuple(names)}
  if own[0] in OF_SETS and c.evaluation.num_generated == Evaluation.num_generated:
    most = len(datasets.source_of(c))
    changes['evaluation.num_generated'] = min(most, Evaluation.num_generated)
  changed = store.with_fields(c, changes)
  config = dataclasses.replace(c.replace(evaluation=changed.evaluation), schema=changed.schema)
  return dataclasses.replace(model, config=config)


def of_data(model: Model) -> tuple[str, ...]:
  """Returns a bound or the likelihood of held-out examples, if there are any.

  Of real numbers, and without these, samples are compared, too: draws given
  held-out contexts with their truths, or else samples with training examples.
  """
  c, facts, of_kind = model.config, model.facts, model.schema.metrics
  if model.plan is None:
    return (next(iter(of_kind)),)
  bound = 'elbo' in of_kind and facts.x.levels and not c.at('objective.coupling')
  likelihood = ('elbo',) if bound else ('ode',) if 'ode' in of_kind else ()
  try:
    held_out = len(datasets.source_of(c, c.evaluation.split))
  except UserError as error:
    if facts.x.is_text or not isinstance(error.__cause__, NoTestSplit):
      raise
    held_out, likelihood = 0, ()
  if likelihood and facts.x.levels:
    return likelihood
  given = conditions.stored_names(model) - {'context'}
  if model.conditioning.context is not None and held_out >= LEAST_PAIRS and not given:
    return tuple(name for name in OF_PAIRS if name in of_kind) + likelihood
  return OF_SETS + likelihood
