"""A training whose held-out loss gets no better ends by itself."""

import json

import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.modes.patience import ended
from tests.app.conftest import lines_of, smoke


def write(workdir, losses):
  lines = [{'step': step, 'test_loss': x} for step, x in losses]
  lines.append({'step': 3, 'loss': 0.0})  # of training
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  (workdir / 'metrics.jsonl').write_text(text)


@pytest.mark.parametrize('step, patience, best', [
  (10, 0, None), (10, 5, None), (20, 11, None), (20, 10, 10), (40, 10, 30),
  (50, 20, 30),
])  # fmt: skip
def test_it_ends_after_steps_without_a_lower_loss(
  step, patience, best, tmp_path
):
  """Lines of later steps, before a run was continued, do not count."""
  write(tmp_path, [(10, 1.0), (20, 2.0), (30, 0.5), (40, 0.6), (50, 0.5)])
  why = ended(tmp_path, step, patience)
  assert bool(why) == (best is not None)
  assert not why or f'has been lowest at step {best}, ' in why
  assert not ended(tmp_path / 'new', step, patience)


def test_a_training_ends_and_is_finished(tmp_path, capsys):
  """The rate is nearly 0: the loss is lowest at the first evaluation."""
  config = smoke(**{
    'training.evaluate_every': 1, 'training.patience': 2,
    'training.num_steps': 9,
    'optimizer.learning_rate': 1e-30,
  })  # fmt: skip
  MODES['train'](config, tmp_path)
  losses = lines_of(tmp_path, 'test_loss')
  assert len(losses) == 3
  printed = capsys.readouterr()
  assert 'lowest at step 1,' in printed.out + printed.err
  MODES['train'](config, tmp_path)
  assert 'this run is finished: the test loss' in capsys.readouterr().out
  assert lines_of(tmp_path, 'test_loss') == losses
