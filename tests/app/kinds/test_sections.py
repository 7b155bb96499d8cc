"""The fields of sections take the ends of their ranges."""

import pytest

from tests.app.config.test_overrides import with_flags


@pytest.mark.parametrize(
  'line',
  """
seed=0 seed=4294967295 training.average.more= sampling.labels=
sampling.grid.number=1 sampling.guidance.interval=0,inf sampling.checkpoint=best
sampling.checkpoint=12 evaluation.name= network.attention_resolutions=
network.multipliers=1,0.5 compilation_cache= convert.source=3
""".split(),
)
def test_the_ends_of_ranges_are_taken(line):
  with_flags('digits', line)
