"""benchmarks.fixed_parts and benchmarks.muon as typed, at small sizes."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import muon

pytestmark = pytest.mark.benchmarks


def test_the_price_of_fixed_parts_is_of_both_steps():
  """The batch of a device is smaller on two devices, and its temporary memory with it."""
  command = [sys.executable, '-m', 'benchmarks.fixed_parts', 'configs/digits.py:smoke']
  flags = '--devices=1,2', '--batch_size=32', '--rounds=1', '--parts=2'
  environment = {n: x for n, x in os.environ.items() if n != 'XLA_FLAGS'}
  said = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment)
  assert said.returncode == 0, said.stderr
  lines = said.stdout.splitlines()
  assert [re.findall(r', (\d) devices?:', line) for line in lines] == [['1'], ['2']]
  memory = [re.findall(r'(\d+) and (\d+) MiB', line)[0] for line in lines]
  assert int(memory[0][0]) > int(memory[1][0]) > 0


def test_the_arms_of_muon_differ_by_the_fused_kernels(capsys):
  losses = muon.measure(2, 4, 0.02)
  assert [*losses] == ['parts', 'whole'] and np.isfinite([*losses.values()]).all()
  assert losses['parts'][0] != losses['whole'][0]
  difference = np.mean(np.subtract(losses['whole'], losses['parts']))
  assert f'whole - parts: {difference:.4f} ±' in capsys.readouterr().out
