"""Values and texts in the types of parameters."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest

from diffusion_jax.ranges import FlagText, Misfit, Positive, check_value, convert, near, nearest

INTS, WORDS = tuple[int, ...], tuple[str, ...]
DTYPE = Literal['half', 'single'] | str | type


@pytest.mark.parametrize('text, kind, expected', [
  ('3', int, 3), ('1e-3', float, 1e-3), ('True', bool, True),
  ('0', bool, False), ('a,b', str, 'a,b'), ('3', str, '3'),
  ('1,2', INTS, (1, 2)), ('(1, 2)', tuple[int, int], (1, 2)),
  ('[1]', INTS, (1,)), ('()', INTS, ()), ('', INTS, ()),
  ('fid,3', WORDS, ('fid', '3')), ('x,T (C)', WORDS, ('x', 'T (C)')),
  ('runs/a,b-c', WORDS, ('runs/a', 'b-c')), ('"a, b", 5" c,"d', WORDS, ('a, b', '5" c', '"d')),
  ('1,0.5', Sequence[float], (1, 0.5)),
  ('3', object, 3), ('linear', object, 'linear'), ('1,a', tuple, (1, 'a')),
  ('0.5', Literal['a'] | float, 0.5), ('a', Literal['a'] | float, 'a'),
  ('2', Positive | None, 2.0), ('half', DTYPE, 'half'),
  ('1e3', int, 1000), ('2.5E1', int, 25), ('1e0,2', INTS, (1, 2)),
])  # fmt: skip
def test_a_text_gets_the_type_of_its_field(text, kind, expected):
  found = convert(FlagText(text), kind)
  assert found == expected and type(found) is type(expected)
  if isinstance(expected, tuple):
    assert [*map(type, found)] == [*map(type, expected)]
  assert convert(found, kind) == found  # it is a value of this type


@pytest.mark.parametrize('value, kind, expected', [
  (2, float, 2.0), (np.int64(3), int, 3), ([1, 2], INTS, (1, 2)),
  (None, int | None, None), ('half', DTYPE, 'half'), (float, DTYPE, float),
  (len, Literal['a'] | Callable[[], int], len), (1, Sequence[float] | int, 1),
  ((1, 2), Sequence[float], (1, 2)),
])  # fmt: skip
def test_a_value_may_have_another_form(value, kind, expected):
  found = convert(value, kind)
  assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize('value, kind, place, expected', [
  (FlagText('1.0'), int, '', 'an integer'), (True, int, '', 'an integer'),
  (FlagText('1e-1'), int, '', 'an integer'), (FlagText('1e999'), int, '', 'an integer'),
  (float('nan'), float, '', 'a number'), (FlagText('no'), bool, '', 'True or False'),
  (None, int, '', 'an integer'), (3, str | None, '', 'a word'),
  ((1, 'b'), INTS, '[1]', 'an integer'), ((1,), tuple[int, int], '', 'a list of 2'),
  (FlagText('-1'), Positive | None, '', 'a number in (0, inf)'),
  (3, INTS, '', 'a list such as 1,2'),
  ('full', DTYPE, '', 'one of half, single'), (FlagText('full'), DTYPE, '', 'one of half, single'),
  (3, DTYPE, '', 'a word'),
])  # fmt: skip
def test_a_value_that_does_not_fit_is_placed(value, kind, place, expected):
  with pytest.raises(Misfit) as error:
    convert(value, kind)
  assert (error.value.place, error.value.expected) == (place, expected)


def test_the_name_of_a_parameter_is_in_the_message():
  with pytest.raises(ValueError, match=r"^sizes\[1\] must be an integer, not 'b'"):
    check_value('sizes', (1, 'b'), INTS)
  with pytest.raises(ValueError, match="^dtype 'full' is not one of half, single"):
    check_value('dtype', 'full', DTYPE)


def test_near_names():
  """Case does not matter; initials and other programs' words are known."""
  assert near('lineer', ['linear', 'cosine']) == " (did you mean 'linear'?)"
  assert near('zzz', ['linear']) == near('ema', ['linear']) == ''
  names = 'ddim', 'Sensor', 'learning_rate', 'loss', 'average', 'noise_input', 'eps'
  for word, name in {
    **{'DDIM': 'ddim', 'sensor': 'Sensor', 'lr': 'learning_rate', 'LR': 'learning_rate'},
    **{'EMA': 'average', 'noise': 'noise_input', 'epsilon': 'eps'},
  }.items():
    assert nearest(word, names) == [name]
