import pytest

from diffusion_jax.interop.options import with_options

DEFAULTS = {'channels': 128, 'rate': 0.1, 'remat': False, 'multipliers': (1, 2)}


def test_options_replace_defaults():
  found = with_options(DEFAULTS, {'channels': 64, 'rate': 1e-3}, 'unet')
  assert found == DEFAULTS | {'channels': 64, 'rate': 1e-3}
  assert DEFAULTS['channels'] == 128


def test_unknown_ones_are_refused_with_the_known_ones():
  message = 'options of unet: chanels; known are channels, rate, remat'
  with pytest.raises(ValueError, match=message):
    with_options(DEFAULTS, {'chanels': 64}, 'unet')


@pytest.mark.parametrize(
  'name, value', [('channels', '64'), ('remat', 'yes'), ('multipliers', 3)]
)
def test_values_of_another_kind_are_refused(name, value):
  with pytest.raises(ValueError, match=f'option {name}={value!r} of unet'):
    with_options(DEFAULTS, {name: value}, 'unet')
