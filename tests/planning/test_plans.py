"""Plans as lines, and the best plan."""

import pytest

from diffusion_jax.planning import plans, topologies

V5E = topologies.Topology('v5e:2x4', [None] * 8, topologies.TPUS['v5e'], 8, {})


def plan(**changes):
  fields = {
    'of': 'train', 'mesh': [8, 1], 'batch': 64, 'accumulate': 1, 'remat': False,
    'state': {'parameters': 1500, 'bytes': 2**20}, 'steps': 7200, 'fits': True,
    'arguments': 2**21, 'temporaries': 2**30, 'peak': 3 * 2**30,
    'flops': {'bfloat16': 2e12, 'float32': 1e12}, 'traffic': 4e9,
    'sent': 17.5, 'seconds': 0.5, 'binding': 'arithmetic',
    'bounds': {'arithmetic': 0.5, 'memory': 0.2, 'network': 0.1},
    'images_per_second': 128.0, 'mfu': 0.5, 'hours': 1.0, 'device_hours': 8.0,
  }  # fmt: skip
  return fields | changes


def refused(**changes):
  """Returns a plan that the compiler refused for its memory."""
  kept = 'of', 'mesh', 'batch', 'accumulate', 'remat', 'state', 'steps'
  fields = {name: x for name, x in plan(**changes).items() if name in kept}
  return fields | {'fits': False, 'peak': 20 * 2**30}


def test_the_lines_of_a_plan():
  assert list(plans.lines(plan(), V5E.rates)) == [
    'mesh 8x1, batch 64, 1,500 parameters',
    '  memory    3 GiB of 16 GiB at the peak: arguments 2 MiB, of them the '
    'state 1 MiB; temporaries 1 GiB',
    '  products  2 TFLOP in bfloat16, 1 TFLOP in float32',
    '  traffic   4 GB, loops once: 4.88 ms without a cache',
    '  network   a device sends at least 17.5 B',
    '  at least  500 ms, by arithmetic: arithmetic 500 ms, memory 200 ms, network 100 ms',
    '  at most   128 images/s, MFU 50%; 7,200 steps: at least 60 min, 8 h of all devices',
  ]
  _, memory = plans.lines(refused(), V5E.rates)
  assert memory.startswith('  memory    20 GiB of 16 GiB: does not fit; try --')
  _, memory = plans.lines(refused() | {'peak': 0}, V5E.rates)
  assert memory.startswith('  memory    over 16 GiB: does not fit; try --')


def test_what_does_not_fit_is_a_plan_with_remedies():
  assert plans.remedies(plan()) == (
    'try --config.network.remat=True, --config.training.accumulate=2, '
    '--config.training.mesh=1,8, --config.training.batch_size=32'
  )
  again = plans.remedies(plan(accumulate=4, batch=64))
  assert '--config.training.accumulate=8, ' in again
  assert plans.remedies(plan(mesh=[1, 8], batch=8, remat=True)) == ('try more devices')


def test_amounts_have_the_prefixes_of_si():
  assert [plans.amount(2 * 1000.0**i, 'B') for i in range(-4, 7)] == [
    '0.002 nB', '2 nB', '2 µB', '2 mB', '2 B', '2 kB', '2 MB', '2 GB', '2 TB',
    '2 PB', '2,000 PB',
  ]  # fmt: skip
  assert plans.amount(0.0, 's') == '0 s'


def test_the_best_fits_and_has_the_lowest_bound_of_an_image():
  slow, fast = plan(), plan(batch=128, mesh=[1, 8])
  too_large = plan(batch=512, fits=False)
  flags = '--config.training.mesh=1,8 --config.training.batch_size=128'
  assert plans.best([slow, fast, too_large], 'train', V5E).endswith(flags)
  # The same bound, with less for the network.
  bounds = {'arithmetic': 0.5, 'memory': 0.2, 'network': 0.0}
  other = plan(batch=64, mesh=[4, 2], bounds=bounds)
  assert 'mesh=4,2' in plans.best([slow, other], 'train', V5E)
  assert plans.best([too_large], 'train', V5E) == 'none fits v5e:2x4'


def test_a_single_plan_is_not_called_the_best():
  assert plans.best([plan()], 'train', V5E) == (
    'it fits; no other was compiled. To compare: --config.plan.meshes=8x1,1x8 '
    '--config.plan.batches=64,128'
  )
  line = plans.best([plan(mesh=[1, 1])], 'train', V5E)
  assert 'meshes' not in line and line.endswith('batches=64,128')
  assert plans.best([plan(), refused(mesh=[1, 8])], 'train', V5E) == (
    'the best that fits: --config.training.mesh=8,1 --config.training.batch_size=64'
  )


H100 = topologies.GPUS['h100']
IN_FLOAT32 = {'dtype': 'float32', 'flops': {'float32': 3e12, 'bfloat16': 1e12}}
BATCH = 'try --config.training.batch_size=128'
BFLOAT16 = 'try --config.network.dtype=bfloat16'


@pytest.mark.parametrize(
  'changes, rates, flag',
  [
    (IN_FLOAT32, H100, BFLOAT16),
    (IN_FLOAT32, V5E.rates, ''),  # as fast there
    (IN_FLOAT32 | {'dtype': None}, H100, ''),  # a network without the field
    (IN_FLOAT32 | {'binding': 'memory'}, V5E.rates, BFLOAT16),
    ({'dtype': 'bfloat16', 'binding': 'memory'}, V5E.rates, ''),
    ({'binding': 'network'}, V5E.rates, BATCH),
    ({'binding': 'memory', 'bounds': {'memory': 1e-6}}, V5E.rates, BATCH),
  ],
)
def test_the_limit_names_the_flag_that_moves_it(changes, rates, flag):
  line = plans.advice(plan(**changes), rates)
  assert line.endswith(flag) if flag else not line
  limits = ['limit' in x for x in plans.lines(plan(**changes), rates)]
  assert any(limits) == bool(flag)


def test_numbers_are_read_without_an_exponent():
  """1e+03 ms, 4.496e+06 images/s and 1.43e-05 h were printed."""
  assert plans.number(4_496_321.0, 4) == '4,496,000'
  assert plans.amount(0.9999, 's') == '1,000 ms'
  hours = 1.43e-05, 0.02, 0.268, 4510.4
  durations = '51.5 ms', '72 s', '16.1 min', '4,510 h'
  assert tuple(map(plans.duration, hours)) == durations
  sizes = 51e6, 1.04e9, 80e9
  assert tuple(map(plans.gib, sizes)) == ('48.6 MiB', '992 MiB', '74.5 GiB')
