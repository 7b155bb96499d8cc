import math

import pytest
from tqdm import tqdm

from diffusion_jax.errors import UserError
from diffusion_jax.runs.step_log import StepLog, average
from diffusion_jax.training.objectives import Mean
from tests.programs.conftest import smoke


def test_averages_weigh_by_counts():
  """(2 + 9) / (1 + 3); a quarter of the levels that no step drew is NaN."""
  a = {'loss': Mean(2.0, 1.0), 'loss_quarter_1': Mean(0.0, 0.0)}
  b = {'loss': Mean(9.0, 3.0), 'loss_quarter_1': Mean(0.0, 0.0)}
  found = average([a, b])
  assert found['loss'] == 2.75 and math.isnan(found['loss_quarter_1'])
  assert average([]) == {}


def test_repaired_gradients_do_not_stop_a_run():
  metrics = {'loss': Mean(float('nan'), 1.0), 'grad_norm': Mean(1.0, 1.0)}
  manager = type('Manager', (), {'latest_step': lambda self: None})()

  def read(config):
    bar = tqdm(disable=True)
    log = StepLog(config, 'runs/x', manager, None, bar, start=0)
    log.add(range(7, 8), metrics)
    log.read()

  with pytest.raises(UserError, match='loss is nan at step 7'):
    read(smoke())
  repaired = smoke(**{'optimizer.repair_gradients': True})
  read(repaired)
