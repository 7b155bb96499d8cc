"""Law: a wrong argument of a public function is refused by one line of ours, or changes no number.

Over the right calls of tests/calls.py. Each argument becomes a thing of another kind, NaN or a
number out of range, its neighbour, or one row or column where others have more; each field of a
level, a sampler or a normal becomes a thing of another kind; denoisers return arrays. A thing is
wrong if its kind is (`exchanges.kind_of`): two arrays of one shape, two numbers, and two
functions of as many arguments cannot be told apart, and are not exchanged. NaN in an array is a
number.

Planted, each caught: `sdedit` without `@checked`; `ddim(eta: float)`; a check of functions that
does not ask for their arguments; keys that are arrays; `path_noise` that does not compare its
levels; `heun` that does not ask what a denoiser returns.
"""

import collections
import functools
import inspect
import traceback
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.discrete import transitions
from tests import calls, exchanges
from tests.exchanges import PUBLIC, TUPLES
from tests.refusals import one_line

PACKAGE = Path(dj.__file__).parent
KINDS = exchanges.other_kinds, exchanges.other_fields, exchanges.not_numbers, exchanges.out_of_range


def fault_of(exchange, is_named=True):
  """Returns why a wrong call is not refused by one line of ours; '' if it is.

  is_named: whether the line has the name of an argument. Where two do not fit together, as
  keys and rows, it may have their shapes instead.
  """
  try:
    exchanges.call_of(exchange.name, exchange.arguments)
    return f'{exchange} is taken'
  except Exception as error:  # noqa: BLE001
    *_, place = traceback.extract_tb(error.__traceback__)
    text, kind = str(error), type(error)
  ours = Path(place.filename).is_relative_to(PACKAGE) and kind in (ValueError, TypeError)
  named = not is_named or any(name in text for name in exchange.changed)
  if ours and named and '\n' not in text and len(text) < 300:
    return ''
  return f'{exchange}: {kind.__name__} of {Path(place.filename).name}: {text[:200]!r}'


def test_all_public_names_have_a_right_call():
  missing = PUBLIC.keys() - exchanges.PROTOCOLS - TUPLES - exchanges.right_calls().keys()
  assert not missing - {'clean_level'}  # without an argument


@pytest.mark.parametrize('wrong', KINDS)
def test_another_kind_is_refused_by_the_name_of_its_argument(wrong):
  exchanged = [*wrong()]
  assert len(exchanged) > 100 and not [*filter(None, map(fault_of, exchanged))]


def test_neighbours_in_each_others_place_are_refused():
  exchanged = [*exchanges.swapped()]
  faults = [fault_of(exchange, is_named=False) for exchange in exchanged]
  assert len(exchanged) > 100 and not [*filter(None, faults)]


def numbers_of(exchange):
  """Returns the numbers of a call, or of the denoiser that it makes."""
  result = exchanges.call_of(exchange.name, exchange.arguments)
  return jax.tree.leaves(result(exchanges.X, exchanges.T) if callable(result) else result)


def test_one_row_is_refused_or_stands_for_all():
  """Equations take levels [1], and a distribution for all; those of a function are one program."""
  taken = collections.defaultdict(list)
  for few, many in exchanges.of_one_row():
    if fault_of(few, is_named=False):
      taken[few.name].append((few, many))
  assert len(taken) > 10
  for rows in taken.values():
    found = jax.jit(lambda rows=rows: [[*map(numbers_of, pair)] for pair in rows])()
    for (few, _), pair in zip(rows, found, strict=True):
      for one, each in zip(*pair, strict=True):
        assert_allclose(np.broadcast_to(one, each.shape), each, 1e-5, 1e-6, err_msg=f'{few}')


def array(x, level):
  """A denoiser that returns an array, whose two rows could be taken for x0 and var_frac."""
  return 0.5 * x


# They take a pair, a function of states or of x0, or particles, or hand the result on.
OTHERS = {'cfg_plus_plus', 'self_conditioned', 'feynman_kac', 'steered', 'at_training_levels'}


@functools.cache
def takers_of_denoisers():
  """Returns the functions of a denoiser, and those that make a sampler: {name: parameters}."""
  takers = {}
  for name in exchanges.FUNCTIONS - OTHERS:
    signature = inspect.signature(PUBLIC[name])
    types = {p.name: p.annotation for p in signature.parameters.values()}
    of = [parameter for parameter, hint in types.items() if hint is dj.Denoiser]
    of_states = {dj.StateProcess, transitions.States} & {*types.values()}
    if of or signature.return_annotation is dj.Sampler and not of_states:
      takers[name] = of
  return takers


@pytest.mark.parametrize('name', sorted(takers_of_denoisers()))
def test_a_denoiser_that_returns_an_array_is_refused(name):
  right = exchanges.right_calls()[name]  # of numbers, before anything is traced

  def call():
    changed = dict.fromkeys(takers_of_denoisers()[name], array)
    result = exchanges.call_of(name, right | changed)
    x = np.ones((exchanges.ROWS, 3), np.float32)
    if isinstance(result, dj.Sampler):
      dj.sample(jax.random.key(0), array, result, calls.GRID, x)
    else:
      result(x, exchanges.T)

  message = r'a denoiser returns dj.Prediction\(x0\), not an array'
  with one_line(error=TypeError, match=message):
    jax.eval_shape(call)
