"""The learned schedule of a config; tests/training/test_vdm.py trains it."""

import pytest

from diffusion_jax.app.kinds.learned import learned_schedule


def test_ends_of_a_schedule_in_the_wrong_order_are_refused():
  with pytest.raises(ValueError, match='gamma_min=3.0 is not below gamma_max=-8.0'):
    learned_schedule('scalar', 3.0, -8.0)
