"""benchmarks.fixed_parts and benchmarks.muon as typed, at small sizes."""

import os
import re
import subprocess
import sys

import pytest

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


def test_the_arms_of_muon_differ_by_the_fused_kernels():
  command = [sys.executable, '-m', 'benchmarks.muon', '--seeds=2', '--steps=4', '--rate=0.02']
  said = subprocess.run(command, capture_output=True, text=True)
  assert said.returncode == 0, said.stderr
  pairs = re.findall(r'seed (\d), (\w+): (\d\.\d+)', said.stdout)
  losses = {(int(seed), arm): float(x) for seed, arm, x in pairs}
  assert [*losses] == [(0, 'parts'), (0, 'whole'), (1, 'parts'), (1, 'whole')]
  differences = [losses[seed, 'whole'] - losses[seed, 'parts'] for seed in range(2)]
  assert all(differences)
  found = re.search(r'whole - parts: (-?\d\.\d+) ±', said.stdout)
  assert found and abs(float(found[1]) - sum(differences) / 2) < 1e-4
