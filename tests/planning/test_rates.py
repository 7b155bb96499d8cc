"""The speed of a training against the rate of its device."""

import pytest

from diffusion_jax.planning import rates


@pytest.mark.parametrize(
  'kind, peak',
  # bfloat16 without sparsity, by the data sheets; the names are from
  # jax/_src/pallas/mosaic/tpu_info.py and from drivers.
  [
    ('TPU v4', 275), ('TPU v5 lite', 197), ('TPU v5p', 459), ('TPU v6 lite', 918),
    ('NVIDIA A100-SXM4-80GB', 312), ('NVIDIA H100 80GB HBM3', 989.4), ('NVIDIA H200', 989.4),
  ],
)  # fmt: skip
def test_half_of_the_published_rate_is_an_mfu_of_one_half(kind, peak):
  speed = rates.achieved(peak / 2 * 1e12, kind)
  assert speed == pytest.approx({'tflops': peak / 2, 'mfu': 0.5})
  assert rates.as_text(speed).endswith(' TFLOP/s, MFU 50%')


def test_a_device_without_a_published_rate_has_no_mfu():
  for kind in ('cpu', 'TPU v3', 'NVIDIA H100 PCIe', 'NVIDIA A100-SXM4-40GB'):
    assert rates.achieved(25.0e9, kind) == {'tflops': 0.025}
  assert rates.as_text({'tflops': 0.025}) == '25 GFLOP/s'
