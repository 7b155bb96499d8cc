"""Law: a held-out loss is without all that only a training reads.

A field that is added to the objective of any kind of model, in its constructor's own file, says by
`@declares(training_only=...)` that it is such a one. Planted, each caught: a kind that makes its
held-out objective of the section as it is; `Node.as_held_out` that leaves inner sections alone;
`vlb` that declares nothing of loss_aware.
"""

import dataclasses
import functools
import inspect

import pytest

from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import store
from diffusion_jax.declared import declared_by, declares
from tests import fusions
from tests.app.conftest import trial
from tests.laws.test_any_mesh import model_of

ADDED = inspect.Parameter('smoothing', inspect.Parameter.KEYWORD_ONLY, default=0.0)
# A row of each kind of model, by what its config says that it is.
ROWS = {trial(config).schema.kind: name for name, (config, *_) in reversed(fusions.KINDS.items())}


def with_smoothing(section, values):
  """Returns a section whose constructor has a field `smoothing`, which is set to 0.1."""
  constructor = section.constructor

  @functools.wraps(constructor)
  def made(*args, smoothing, **kwargs):
    values.append(smoothing)
    return constructor(*args, **kwargs)

  traits, names = declared_by(constructor), [*parameters(constructor).values(), ADDED]
  own = traits._replace(training_only=(*traits.training_only, 'smoothing'))
  vars(made).update(__signature__=inspect.Signature(names), declared=own)
  return dataclasses.replace(section, constructor=made, _fields={**section, 'smoothing': 0.1})


def test_each_kind_of_model_has_a_row():
  assert {*ROWS} == {kind.kind for kind in store.KINDS}


@pytest.mark.parametrize('kind', ROWS)
def test_a_field_of_the_training_is_left_out(kind, tmp_path):
  values = []
  model = model_of(
    ROWS[kind], tmp_path, lambda c: c.replace(objective=with_smoothing(c.objective, values))
  )
  model.objective()
  assert values == [0.1]
  model.objective(test=True)
  assert values == [0.1, 0.0]
  if model.losses is not None:  # of the metric `loss`
    model.losses()
    assert values[2:] == [0.0]


def test_a_field_of_an_inner_section_is_left_out():
  """It is set like a parameter of the distribution of times."""
  values = []
  objective = trial('digits_edm').objective
  objective = objective.replace(times=with_smoothing(objective.times, values))
  assert objective.as_held_out().times.smoothing == 0.0
  assert (
    objective.as_held_out().to_dict()
    == objective.replace(times=objective.times.replace(smoothing=0.0)).to_dict()
  )


@pytest.mark.parametrize('name', ['hybrid', 'vlb'])
def test_steps_that_losses_choose_are_of_the_training(name):
  objective = trial('digits_improved', objective=name).objective.replace(loss_aware=True)
  assert objective.as_held_out().loss_aware is False


def test_a_field_without_a_default_is_refused():
  for name in 'weight', 'wieght':
    with pytest.raises(ValueError, match=f'has no parameter {name} with a default'):
      declares(training_only=(name,))(lambda network, weight, smoothing=0.0: None)
