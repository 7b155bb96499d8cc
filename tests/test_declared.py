"""What a constructor declares is found behind what the tables make of it."""

import functools
from typing import NamedTuple

import pytest
from flax import nnx

from diffusion_jax.app.kinds.choices import deferred, guidance
from diffusion_jax.declared import Declared, declared_by, declares
from diffusion_jax.networks import functional

LEVELS = Declared(data='levels', draws_noise=True)
declared = declares(data='levels', draws_noise=True)


@declared
def function(pair, scale, width=1):
  return None


@declared
class Tuple(NamedTuple):
  width: int = 1


@declared
class Module(nnx.Module):
  def __init__(self, width: int = 1, *, rngs):
    pass


class Heir(Module):
  pass


def wrapped(*args):
  return functools.wraps(function)(lambda: None)


@pytest.mark.parametrize('make', [
  lambda: function,
  lambda: Tuple,
  lambda: functools.partial(functools.partial(function, 1), width=2),
  lambda: deferred(function, 'pair'),
  lambda: guidance(function),
  lambda: functional.from_nnx(Module),
  lambda: functional.from_nnx(Heir),
  wrapped,
])  # fmt: skip
def test_what_is_declared_stays(make):
  assert declared_by(make()) == LEVELS


def test_who_says_nothing_declares_nothing():
  nothing = declared_by(lambda: None)
  assert nothing == Declared() and nothing.refuses(None, None) == ''


def test_a_word_that_no_rule_asks_is_refused():
  with pytest.raises(TypeError, match='levelz'):
    declares(levelz=True)
