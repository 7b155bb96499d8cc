"""Options that several classes of diffusers share come back as they were."""

from diffusion_jax.interop.diffusers_options import multipliers


def test_widths_come_back_from_multipliers():
  for first in range(1, 130):
    for width in range(1, 400, 7):
      _, m = multipliers((first, width))
      assert int(first * m) == width
