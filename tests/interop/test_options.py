import pytest

from diffusion_jax.interop.options import check, complete, typed

DEFAULTS = dict(channels=128, rate=0.1, remat=False, multipliers=(1, 2), groups=None)


def test_options_replace_defaults():
  o = complete('unet', DEFAULTS, {'channels': 64, 'rate': 1, 'groups': 8})
  assert vars(o) == DEFAULTS | {'channels': 64, 'rate': 1, 'groups': 8}
  assert DEFAULTS['channels'] == 128


@pytest.mark.parametrize(
  'given, expected', [('0.5,2', (0.5, 2)), (3, (3,)), ([1, 2.0], (1, 2)), ('', ())]
)
def test_several_numbers(given, expected):
  assert typed('unet', DEFAULTS, {'multipliers': given}) == {'multipliers': expected}


def test_unknown_ones_are_refused_with_the_known_ones():
  with pytest.raises(ValueError, match='options of unet: chanels; known are channels, rate, remat'):
    complete('unet', DEFAULTS, {'chanels': 64})


@pytest.mark.parametrize(
  'name, value, expected',
  [
    ('channels', '64', 'a number'),
    ('channels', True, 'a number'),
    ('remat', 'yes', 'True or False'),
    ('multipliers', '1,b', 'numbers, such as 32,16,8'),
  ],
)
def test_values_of_another_kind_are_refused(name, value, expected):
  with pytest.raises(ValueError, match=f'unet: the option {name}={value!r} must be {expected}'):
    typed('unet', DEFAULTS, {name: value})


def test_what_has_no_counterpart_is_refused_with_what_has():
  options = {'act': 'gelu', 'depth': 3}
  check('unet', options, {'act': ('gelu', 'silu'), 'depth': ''})
  message = "unet: act='gelu' has no counterpart here: it can be 'silu' or 'id'"
  with pytest.raises(ValueError, match=message):
    check('unet', options, {'act': ('silu', 'id')})
  with pytest.raises(ValueError, match='depth=3 .* in torch: it is odd'):
    check('unet', options, {'depth': 'it is odd'}, 'in torch')
