"""Devices that are not here, by name."""

import jax
import pytest

from diffusion_jax.planning import topologies


@pytest.mark.parametrize(
  'name, message',
  {
    'v5e:2x4': "v5e:2x4: .* missing: pip install 'jax.tpu.==",
    'h100x8': 'h100x8: .* missing: pip install --no-deps jax-cuda12-plugin==',
  }.items(),
)
def test_a_missing_compiler_says_what_to_install(name, message, monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=message):
    topologies.make(name)


def test_simulated_devices_are_those_of_the_cpu():
  topology = topologies.make('cpu:4')
  assert topology.devices == jax.devices()[:4]
  assert topology.rates is None and topology.machine == 4


@pytest.mark.parametrize(
  'name, bfloat16, tf32',
  [('a100', 312e12, 156e12), ('h100', 989.4e12, 494.7e12), ('h200', 989.4e12, 494.7e12)],
)
def test_gpus_have_the_rates_of_their_data_sheets(name, bfloat16, tf32):
  """These are dense products; JAX computes float32 in TF32."""
  rates = topologies.GPUS[name]
  assert (rates.flops, rates.flops_float32) == (bfloat16, tf32)


def test_a_gpu_is_described_as_xla_reads_it():
  """Every brace is closed, and the figures come from the data sheet."""
  text = topologies.target_config('h100')
  assert text.count('{') == text.count('}') == 3
  assert 'core_count: 132 ' in text
  assert 'memory_bandwidth: 3352000000000 ' in text
  assert 'device_description_str: "NVIDIA H100 80GB HBM3"' in text


def test_rates_are_of_the_devices_that_jax_names():
  """jax/_src/pallas/mosaic/tpu_info.py and drivers have these names."""
  named = {'v4': ['v4'], 'v5e': ['v5 lite', 'v5e'], 'v5p': ['v5', 'v5p'], 'v6e': ['v6 lite', 'v6e']}
  for kind, names in named.items():
    for name in names:
      assert topologies.rates_of(f'TPU {name}') is topologies.TPUS[kind]
  for rates in topologies.GPUS.values():
    assert topologies.rates_of(rates.name) is rates
  for unknown in ('cpu', 'TPU v3', 'NVIDIA H100 PCIe', 'NVIDIA A100-SXM4-40GB'):
    assert topologies.rates_of(unknown) is None
