"""How many files of the package a run enters, so that its flow stays short to read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOSS, SAMPLE, TRAINING = 22, 63, 96  # files


def entered(*arguments):
  """Returns the files that a command enters, on one device as for a user."""
  environment = {n: x for n, x in os.environ.items() if n != 'XLA_FLAGS'}
  result = subprocess.run(
    [sys.executable, '-m', 'tests.entered', *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  assert result.returncode == 0, result.stderr
  words = (line.split() for line in result.stdout.splitlines())
  return {each[1] for each in words if len(each) == 2 and each[0] == 'entered'}


def test_the_loss_of_the_unet_enters_few_files():
  found = entered('loss')
  assert {'core/process.py', 'core/losses.py', 'networks/unet.py'} <= found
  assert not {'core/keys.py', 'networks/context.py', 'runtime/compiling.py'} & found
  assert len(found) <= LOSS, sorted(found)


@pytest.mark.slow
def test_a_training_and_its_samples_enter_few_files(tmp_path):
  """A training of one step with its report, and --mode=sample of its run."""
  fields = 'training.num_steps=1', 'report.after_training=True'
  flags = [f'--config.{field}' for field in fields]
  found = entered('--config=configs/digits.py:smoke', f'--workdir={tmp_path}', *flags)
  assert {'training/objectives.py', 'report/page.py', 'weights/checkpoints.py'} <= found
  assert len(found) <= TRAINING, sorted(found)
  found = entered(f'--config={tmp_path}', '--mode=sample', '--config.sampling.num_samples=4')
  assert {'sampling/ancestral.py', 'networks/unet.py', 'data/npz.py'} <= found
  unused = 'app/kinds/other_runs.py', 'networks/context.py', 'sampling/rejection.py'
  assert not {*unused, 'metrics/sweeps.py', 'report/results.py'} & found
  assert len(found) <= SAMPLE, sorted(found)
