"""Arguments are checked by the types of a signature, and programs do not have the checks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import diffusion_jax as dj
from diffusion_jax.core.checked import Key, Numbers, checked
from diffusion_jax.core.levels import Grid
from diffusion_jax.ranges import Probability, Shape, Size
from tests.refusals import one_line

X, KEY, COSINE = np.ones((2, 3), np.float32), jax.random.key(0), dj.CosineSchedule()
LEVEL, GRID = COSINE(0.5), dj.level_grid(COSINE, 2)


class Decoder(Protocol):
  def __call__(self, x: jax.Array, z: jax.Array, /, *, key: Any = None) -> jax.Array: ...


class Pair(NamedTuple):
  a: jax.Array
  b: float = 0.0


class Own:
  def __call__(self, x, z, *, key=None):
    return x

  def decode(self, x, z, **options):
    return x


@functools.wraps(lambda first, x, z: x)
def wrapper(*args, **options):
  return args[0]


def taking(hint):
  """Returns a checked function of one argument of this type."""

  def function(value):
    return value

  function.__annotations__ = {'value': hint}
  return checked(function)


RIGHT = [
  (jax.Array, X, np.float32(1.0), jnp.ones(()), X > 0.0, X * np.nan),
  (jax.Array | float, X, 0.5, 2, np.float64(0.5)),
  (Size, 3, np.int64(3), jnp.int32(3)),
  (Probability, 0, 0.5, np.float32(0.5), jnp.float32(1.0)),
  (Size | None, None, 1),  # type: ignore[operator]
  (bool, True, np.bool_(False)),
  (Literal['a', 'b'] | None, 'a', None),
  (Shape, (2, 3), [2, 3], X.shape, np.array([2, 3]), ()),
  (Sequence[int], range(3), [1], np.arange(3)),
  (Numbers, X, [0.1, 0.2], ((1, 2), (3, 4)), jnp.ones(2)),
  (Key, KEY, jax.random.split(KEY, 3), jax.random.PRNGKey(0)),
  (Grid, GRID),
  (dj.NoiseLevel, LEVEL, GRID, dj.NoiseLevel(0.5, 0.8, np.float32(0.6))),
  (dj.Schedule, COSINE, lambda t: LEVEL, functools.partial(lambda a, t: LEVEL, 1)),
  (Decoder, Own(), Own().decode, lambda *args, **options: X, jax.jit(Own()), wrapper),
  (Callable[[jax.Array], jax.Array], jnp.exp, np.exp, jax.vmap(abs), lambda x, y=1: x, abs),
  (Callable[..., Any], lambda: None, Own),
  (dict | None, {'label': X}, None),
  (Any, object(), None),
  (Pair, Pair(X, 1.0), Pair(0.5)),
]


@pytest.mark.parametrize('hint, values', [(x[0], x[1:]) for x in RIGHT])
def test_values_of_a_type_are_passed_on(hint, values):
  for value in values:
    assert taking(hint)(value) is value


a_key = 'a random key, such as jax.random.key(0)'
WRONG = [
  (jax.Array, [1.0], TypeError, 'an array, not a list'),
  (jax.Array, KEY, TypeError, 'an array, not a random key'),
  (jax.Array, np.array(['a']), TypeError, 'an array, not an array [1]'),
  (jax.Array | float, float('nan'), ValueError, 'a number, not nan'),
  (jax.Array | float, None, TypeError, 'an array or a number, not None'),
  (Size, 3.0, ValueError, 'an integer, not 3.0'),
  (Size, True, ValueError, 'an integer, not True'),
  (Size, np.float32(2.0), ValueError, 'an integer, not 2.0'),
  (Size, X, ValueError, 'an integer of at least 1, not an array [2, 3]'),
  (Probability, jnp.float32(np.nan), ValueError, 'a number, not nan'),
  (float, 'inf', ValueError, "a number, not 'inf'"),
  (bool, 1, ValueError, 'True or False, not 1'),
  (Shape, (2, -1), ValueError, '[1] must be an integer of at least 0, not -1'),
  (Sequence[float], LEVEL, ValueError, 'a list such as 1,2, not a NoiseLevel []'),
  (Numbers, [[1], [1, 2]], TypeError, 'an array or a list of numbers, not a list'),
  (Numbers, 0.5, TypeError, 'an array or a list of numbers, not 0.5'),
  (Key, 0, TypeError, f'{a_key}, not 0'),
  (Grid, LEVEL, TypeError, 'a grid of levels, [N+1], as level_grid returns, not a NoiseLevel []'),
  (dj.Schedule, dj.CosineSchedule, TypeError, 'the class CosineSchedule: call it, as CosineSch'),
  (dj.Sampler, dj.ddim, TypeError, 'a Sampler, such as ddim(), not ddim: call it, as ddim(...)'),
  (dj.Denoiser, COSINE, TypeError, 'not a CosineSchedule'),
  (dj.Denoiser, dj.FlowMap, TypeError, 'not the class FlowMap'),
  (Decoder, lambda x, z: x, TypeError, '(x, z, *, key), not the function <lambda>(x, z)'),
  (Callable[[jax.Array], Any], lambda: X, TypeError, 'a function (Array), not the function <lam'),
  (dict, X, TypeError, 'a dict, not an array [2, 3]'),
]  # fmt: skip


@pytest.mark.parametrize('hint, value, error, message', WRONG)
def test_another_value_is_refused_in_one_line(hint, value, error, message):
  with one_line('value', message, error=error):
    taking(hint)(value)


def test_a_field_of_a_tuple_is_checked_where_it_is_an_argument():
  with one_line("value.a must be an array or a number, not 'a'", error=TypeError):
    taking(Pair)(Pair('a'))
  tree = jax.tree.map(lambda x: None, Pair(X, 0.0))  # JAX may put anything there
  assert tree == Pair(None, None)


def test_arguments_by_name_and_constructors():
  @checked
  @dataclasses.dataclass(frozen=True)
  class Part:
    """A part."""

    size: Size
    names: Sequence[str] = ()

  assert Part(2, names=['a']) == Part(size=2, names=['a'])
  assert [*inspect.signature(Part).parameters] == ['size', 'names'] and Part.__doc__ == 'A part.'
  for call in (lambda: Part(0), lambda: Part(size=0), lambda: dataclasses.replace(Part(1), size=0)):
    with one_line('size must be an integer of at least 1, not 0'):
      call()
  with pytest.raises(TypeError, match='missing 1 required positional argument'):
    Part()  # type: ignore[call-arg]


def test_a_signature_is_kept():
  assert inspect.signature(dj.ddim).return_annotation is dj.Sampler
  assert dj.ddim.__name__ == 'ddim' and 'Song et al.' in (dj.ddim.__doc__ or '')
  assert inspect.getsource(dj.ddim).startswith('@')


def test_what_is_traced_has_a_kind_and_no_value():
  """A number may be anything; a key is not an array of numbers, also under `jit`."""
  assert jax.jit(lambda eta: taking(Probability)(eta))(2.0) == 2.0
  with one_line('eta must be a number in [0, 1], not 2.0'):
    jax.jit(lambda: dj.ddim(2.0))()
  with one_line('x0 must be an array, not a random key', error=TypeError):
    jax.eval_shape(dj.q_sample, KEY, X, LEVEL)


def test_a_program_has_no_checks():
  """The jaxprs equal the functions' own."""
  for function, args in ((dj.q_sample, (X, X, LEVEL)), (dj.prior_kl, (X, LEVEL))):
    of = lambda f, args=args: str(jax.make_jaxpr(f)(*args))
    assert of(function) == of(function.__wrapped__)


def test_sizes_without_a_number():
  """A batch of `jax.export` may be a symbol."""
  (rows,) = export.symbolic_shape('rows')
  x = jax.ShapeDtypeStruct((rows, 3), jnp.float32)
  draw = jax.jit(lambda x: dj.prior_sample(KEY, x.shape, LEVEL))
  assert export.export(draw)(x).out_avals[0].shape == (rows, 3)
