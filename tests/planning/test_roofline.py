"""Bounds of a step in closed form."""

import pytest

from diffusion_jax.planning import plans, roofline, topologies
from diffusion_jax.planning.programs import Memory
from diffusion_jax.planning.topologies import Rates

RATES = Rates(
  'device',
  flops=1000.0,
  flops_float32=500.0,
  memory=1e6,
  bandwidth=10.0,
  cache=5.0,
  link=4.0,
  between=0.5,
  source='nowhere',
)


def measured(**changes):
  flops = {'bfloat16': 3000.0, 'float32': 1000.0}
  fields = {'memory': Memory(10, 15, 10, 45), 'flops': flops}
  fields |= {'traffic': 90.0, 'sent': 0.0, 'between': 0.0}
  return roofline.Measured(**fields | changes)


def test_each_part_at_its_rate_and_the_longest_binds():
  """A cache of 5 bytes holds a third of the temporaries."""
  found = roofline.bounds(measured(), RATES)
  assert found == (3.0 + 2.0, (10 + 10 + 2 * (15 - 5)) / 10.0, 0.0)
  assert found.seconds == 5.0 and found.binding == 'arithmetic'


def test_what_devices_send_by_rings():
  """An all-reduce of 8 bytes; a gather and a scatter; both of 2 x 4 devices."""
  assert roofline.sent(8.0, 4, 1) == 2 * 3 / 4 * 8
  assert roofline.sent(8.0, 1, 4) == 3 / 4 * 8 + 3 / 4 * 8
  assert roofline.sent(8.0, 2, 4) == 2 * 3 / 4 * 8 + 2 * 1 / 2 * (8 / 4)
  assert roofline.sent(0.0, 2, 4) == roofline.sent(8.0, 1, 1) == 0


def test_the_network_between_machines_may_be_the_slowest():
  """A sum of 8 bytes over 2 x 4 devices: each sends 14, four send 8 outside."""
  found = roofline.bounds(measured(sent=14.0), RATES)
  assert found.network == 14 / 4.0
  both = measured(sent=14.0, between=2.0)
  assert roofline.bounds(both, RATES).network == 2.0 / 0.5
  # It sends over its links and its adapter together.
  equal = RATES._replace(between=4.0)
  assert roofline.bounds(both, equal).network == 14 / (4.0 + 4.0)
  both = both._replace(between=4.0)
  found = roofline.bounds(both, RATES)
  assert found.binding == 'network' and found.seconds == 8.0


@pytest.mark.parametrize(
  'kind, text',
  [
    ('NVIDIA H100 80GB HBM3', '495 TFLOP/s, MFU 50%'),
    ('TPU v5 lite', '98.5 TFLOP/s, MFU 50%'),
    ('TPU v5p', '230 TFLOP/s, MFU 50%'),
  ],
)
def test_the_speed_of_half_the_published_rate(kind, text):
  rates = topologies.rates_of(kind)
  found = roofline.achieved(rates.flops / 2, kind)
  assert found == {'tflops': rates.flops / 2e12, 'mfu': 0.5}
  assert plans.achieved(found) == text
