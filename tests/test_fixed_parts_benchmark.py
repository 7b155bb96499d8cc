"""benchmarks.fixed_parts and benchmarks.muon as typed, at small sizes."""

import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import muon
from diffusion_jax.app.kinds.idle import TRAINING
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.errors import refuse
from diffusion_jax.networks.transformer import DiT

pytestmark = pytest.mark.benchmarks


@pytest.mark.slow
def test_the_price_of_fixed_parts_is_of_both_steps():
  """The batch of a device is smaller on two devices, and its temporary memory with it."""
  command = [sys.executable, '-m', 'benchmarks.fixed_parts', 'configs/regression.py:smoke']
  flags = '--devices=1,2', '--batch_size=4096', '--rounds=1', '--parts=2'
  cheap = [x for x in os.environ['XLA_FLAGS'].split() if 'device_count' not in x]
  environment = os.environ | {'XLA_FLAGS': ' '.join(cheap)}
  said = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment)
  assert said.returncode == 0, said.stderr
  lines = said.stdout.splitlines()
  assert [re.findall(r', (\d) devices?:', line) for line in lines] == [['1'], ['2']]
  memory = [re.findall(r'(\d+) and (\d+) MiB', line)[0] for line in lines]
  assert int(memory[0][0]) > int(memory[1][0]) > 0


def test_the_table_of_muon_is_of_both_arms(monkeypatch, capsys):
  """A training is its config, and writes whether the kernels of its network are fused."""
  trained = []

  def train(mode, config, run):
    refuse(lines(TRAINING, config, 'train', None))
    trained.append((config.seed, config.optimizer.name, config.training.num_steps))
    fused = bool(DiT(8, 1, 2, out_channels=1).fused)
    run.path.mkdir(parents=True)
    line = {'step': 4, 'test_loss': 2.0 + config.seed - 0.5 * fused}
    (run.path / 'metrics.jsonl').write_text(f'{json.dumps(line)}\n')

  monkeypatch.setattr(muon.cli, 'start', train)
  losses = muon.measure(seeds=2, steps=4, rate=0.02)
  assert trained == [(seed, 'muon', 4) for seed in (0, 0, 1, 1)]
  assert losses == {'parts': [1.5, 2.5], 'whole': [2.0, 3.0]}
  printed = capsys.readouterr().out
  assert 'parts: 2.0000 ± 0.7071' in printed and 'whole - parts: 0.5000 ± 0.0000' in printed


@pytest.mark.slow
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
