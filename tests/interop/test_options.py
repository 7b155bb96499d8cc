"""Options of other projects' networks are read from text, and unknown ones are named."""

import pytest

from diffusion_jax.interop.options import check, complete, models, of_text, typed
from tests import refusals

DEFAULTS = dict(channels=128, rate=0.1, remat=False, multipliers=(1, 2), groups=None)


def test_options_replace_defaults():
  o = complete('unet', DEFAULTS, {'channels': 64, 'rate': 1, 'groups': 8})
  assert vars(o) == DEFAULTS | {'channels': 64, 'rate': 1, 'groups': 8}
  assert DEFAULTS['channels'] == 128


def test_options_are_literals_or_words():
  assert of_text("a=1 --b=x c='1 2'") == {'a': 1, 'b': 'x', 'c': '1 2'}
  assert models('one a=1 b=x\ntwo one a=3,4') == {
    'one': {'a': 1, 'b': 'x'},
    'two': {'a': (3, 4), 'b': 'x'},
  }


@pytest.mark.parametrize(
  'given, expected', [('0.5,2', (0.5, 2)), (3, (3,)), ([1, 2.0], (1, 2)), ('', ())]
)
def test_several_numbers(given, expected):
  assert typed('unet', DEFAULTS, {'multipliers': given}) == {'multipliers': expected}


OPTIONS = {'act': 'gelu', 'depth': 3}
WRONG = [
  (
    lambda: complete('unet', DEFAULTS, {'chanels': 64}),
    'options of unet: chanels; known are channels, rate',
  ),
  (
    lambda: typed('unet', DEFAULTS, {'channels': '64'}),
    "unet: the option channels='64' must be a number",
  ),
  (
    lambda: typed('unet', DEFAULTS, {'channels': True}),
    'unet: the option channels=True must be a number',
  ),
  (
    lambda: typed('unet', DEFAULTS, {'remat': 'yes'}),
    "unet: the option remat='yes' must be True or False",
  ),
  (
    lambda: typed('unet', DEFAULTS, {'multipliers': '1,b'}),
    "multipliers='1,b' must be numbers, such as 32,16",
  ),
  (
    lambda: check('unet', OPTIONS, {'act': ('silu', 'id')}),
    "unet: act='gelu' has no counterpart here: it can be 'silu' or 'id'",
  ),
  (lambda: of_text('ema'), "'ema' is not name=value"),
  (lambda: of_text('a=1 a=2'), 'a has two values, 1 and 2'),
  (
    lambda: check('unet', OPTIONS, {'depth': 'it is odd'}, 'in torch'),
    'depth=3 ... in torch: it is odd',
  ),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows(ValueError, WRONG)])
def test_what_is_wrong_is_named(error, call, message):
  check('unet', OPTIONS, {'act': ('gelu', 'silu'), 'depth': ''})
  with refusals.one_line(error=error, match=message):
    call()
