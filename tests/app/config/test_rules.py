"""A rule is asked in its modes only, and a field is set only under its own name."""

import pytest

from diffusion_jax.app.config.rules import Row, lines, set_fields
from diffusion_jax.app.kinds import store
from tests.app.conftest import DIGITS, read

WRONG = Row(lambda c, facts: c.seed, 'seed {it} of {c.network.name}, {data}')


@pytest.mark.parametrize('modes', [(), ('train',)])
def test_a_rule_is_of_its_modes(modes):
  config = store.with_flags(read('digits'), [('seed', '3')])
  rows = [WRONG._replace(modes=modes)]
  found = [*lines(rows, config, 'train', None, DIGITS)]
  assert found == ['seed 3 of unet, 17 levels [8, 8, 1] without a context']
  assert not [*lines(rows, read('digits'), 'train', None, DIGITS)]
  assert not [*lines([WRONG._replace(modes=('edit',))], config, 'train', None, DIGITS)]


def test_a_field_whose_name_another_begins_with_is_not_set(tmp_path):
  """optimizer.weight_decay_mask is not below optimizer.weight_decay."""
  config = store.with_flags(read('digits'), [('optimizer.weight_decay_mask', 'all')])
  assert not [*set_fields(config, tmp_path, ['optimizer.weight_decay'])]
  assert ('optimizer.weight_decay_mask', 'all') in set_fields(config, tmp_path, ['optimizer'])
