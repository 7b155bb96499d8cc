"""Bounds in closed form."""

from diffusion_jax.planning import roofline
from diffusion_jax.planning.programs import Collective, Memory
from diffusion_jax.planning.topologies import Rates

RATES = Rates(
  'device', flops=1000.0, flops_float32=500.0, memory=1e6, bandwidth=10.0,
  cache=0.0, link=4.0, between=0.5, source='nowhere',
)  # fmt: skip


def measured(**changes):
  fields = {
    'memory': Memory(1, 1, 2),
    'flops': {'bfloat16': 3000.0, 'float32': 1000.0},
    'traffic': 90.0,
    'beyond_cache': 40.0,
    'collectives': [],
    'unknown': 0,
  }
  return roofline.Measured(**fields | changes)


def test_each_part_at_its_rate_and_the_longest_binds():
  found = roofline.bounds(measured(), RATES)
  assert found == (3.0 + 2.0, 4.0, 0.0)
  assert found.seconds == 5.0 and found.binding == 'arithmetic'


def test_the_network_between_machines_may_be_the_slowest():
  """A sum of 8 bytes over 2 x 4 devices: each sends 14, four send 8 outside."""
  within = Collective('all-reduce', 1, 8, 4)
  across = Collective('all-reduce', 1, 8, 8, 2)
  found = roofline.network_seconds([within, within], RATES)
  assert found == 2 * (2 * 3 / 4 * 8) / 4.0
  assert roofline.network_seconds([across], RATES) == 8 / 4 / 0.5
  # It sends over its links and its adapter together.
  equal = RATES._replace(between=4.0)
  assert roofline.network_seconds([across], equal) == 14 / (4.0 + 4.0)
  found = roofline.bounds(measured(collectives=[across] * 2), RATES)
  assert found.binding == 'network' and found.seconds == 8.0
