from diffusion_jax.runs import calls
from tests.programs.conftest import smoke


def config(**fields):
  names = {
    'log_every': 10,
    'evaluate_every': 0,
    'sample_every': 0,
    'checkpoint_every': 25,
    'num_steps': 63,
    **fields,
  }
  return smoke(**{f'training.{name}': value for name, value in names.items()})


def ends(config, step):
  found = []
  while step < config.training.num_steps:
    step = calls.end_of_call(config, step)
    found.append(step)
  return found


def test_a_call_ends_where_something_is_due():
  """At multiples of 10 and 25, and at 63; also from a step within."""
  c = config(steps_per_call=8)
  assert ends(c, 0) == [8, 10, 18, 20, 25, 30, 38, 40, 48, 50, 58, 60, 63]
  assert ends(c, 21) == [25, 30, 38, 40, 48, 50, 58, 60, 63]
  assert ends(config(steps_per_call=1), 59) == [60, 61, 62, 63]


def test_everything_is_due_at_its_multiples_and_after_the_last_step():
  c = config(evaluate_every=7, keep_best=1)
  assert calls.due(c, 20) == {'log'}
  assert calls.due(c, 25) == {'save', 'evaluate'}  # to compare checkpoints
  assert calls.due(c, 28) == {'evaluate'}
  assert calls.due(c, 29) == set()
  assert calls.due(c, 63) == {'log', 'evaluate', 'save'}
