"""A class is called by its name or its number, and no word means two classes."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion_jax.data.classes import listed, number_of, word_for

NAMED = {
  'no names': ((), ('0', '1', '2')),
  'texts': (('cat', 'dog', 'owl'), ('cat', 'dog', 'owl')),
  'numbers': (('1', '2', '3'), ('1', '2', '3')),
  'their own numbers': (('0', '1', '2'), ('0', '1', '2')),
  'signs': (('-1', '0', '1'), ('-1', '0', '1')),
  'decimals': (('1.0', '2.0', '3.0'), ('1.0', '2.0', '3.0')),
  'zeros': (('01', '1', '2'), ('01', '1', '2')),
  'as text': (('1', '10', '2'), ('1', '10', '2')),
  'a text among numbers': (('1', '2', 'NA'), ('1', '2', 'NA')),
  'the sign of numbers': (('#0', '#1', '#2'), ('#0', '#1', '#2')),
}


@pytest.mark.parametrize('names, words', NAMED.values(), ids=NAMED)
def test_each_class_has_a_name_and_a_number(names, words):
  assert [number_of(f'#{i}', 3, names) for i in range(3)] == [0, 1, 2]
  assert [number_of(word, 3, names) for word in words] == [0, 1, 2]
  assert [number_of(word_for(i, names), 3, names) for i in range(3)] == [0, 1, 2]


REFUSED = [
  ('0', ('1', '2', '3'), "0 .*is not a class: the classes have the names 1, 2, 3, and #0..#2 are"),
  ('4', ('1', '2', '3'), '4 .*is not a class'),
  ('3', (), '3 is not a class: the classes are 0..2'),
  ('#3', (), '#3 is not a class'),
  ('#-1', (), '#-1 is not a class'),
  ('#', (), '# is not a class'),
  ('-1', (), '-1 is not a class'),
  ('1.5', (), '1.5 is not a class'),
  ('0-2', (), '0-2 is not a class: the classes are 0..2; name each class, as 3,4,5'),
  ('dgo', ('cat', 'dog', 'owl'), r"dgo \(did you mean 'dog'\?\) is not a class: .* cat, dog, owl"),
  (True, (), 'True is not a class'),
  ('1e999999999', (), '1e999999999 is not a class'),
  ('1e-999999999', ('1', '2', '3'), '1e-999999999 is not a class'),
  (1, ('1', '2', '3'), "1: the names of these classes are numbers, and '1' is a name, '#1' a"),
  (0, ('1', '2', '3'), "0: the names of these classes are numbers, and '0' is a name, '#0' a"),
]  # fmt: skip


@pytest.mark.parametrize('word, names, message', REFUSED)
def test_a_word_of_no_class_or_of_two_is_refused(word, names, message):
  with pytest.raises(ValueError, match=message):
    number_of(word, 3, names)


def test_numbers_of_arrays_are_numbers():
  for kind in (int, np.int64, float, np.float32):
    assert number_of(kind(2), 3, ('cat', 'dog', 'owl')) == 2
    assert number_of(kind(2), 3) == 2
    assert number_of(kind(2), 3, ('0', '1', '2')) == 2


@given(
  st.lists(
    st.text('0123456789.-+e#a', min_size=1, max_size=3), min_size=1, max_size=5, unique=True
  ),
  st.text('0123456789.-+e#a', max_size=3),
)
def test_a_word_that_is_taken_has_one_meaning(names, word):
  """A word is the name of its class, a number after #, or a number where no name is one."""
  is_number = lambda text: re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', text)
  try:
    number = number_of(word, len(names), names)
  except ValueError:
    assert word not in names or word[0] == '#'
    return
  if word[0] == '#':
    assert float(word[1:]) == number
  elif word in names:
    assert names[number] == word
  else:
    value = float(word)
    numbers = [float(x) for x in names if is_number(x)]
    assert (
      float(names[number]) == value and numbers.count(value) == 1 if numbers else value == number
    )


def test_what_messages_say_of_classes():
  assert listed(0) == 'the data have no classes'
  assert listed(12, [f'c{i}' for i in range(12)]).endswith(
    '0..11, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, …'
  )
