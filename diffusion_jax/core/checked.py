"""Checks of arguments by the types of a signature.

    @checked
    def q_sample(x0: Array, eps: Array, level: NoiseLevel) -> Array:

refuses arguments of other types by one line: the argument's name, what was expected, what
came. So a type says once what is right, to readers, to type checkers and at run time, and a
function itself checks only how its arguments fit together. The checks run while Python
calls, or `jit` traces, a function, and are no part of its program.

Numbers have the ranges of `ranges`, and are not NaN; arrays may have NaN. A traced number is
not checked. A function must take the arguments that it will get. The fields of a
`NamedTuple` are checked where it is an argument: JAX fills them with all that trees may have.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from diffusion_jax.core.arguments import kind_of
from diffusion_jax.declared import without_use
from diffusion_jax.ranges import (
  PLAIN,
  UNIONS,
  Misfit,
  Rule,
  check_choice,
  convert,
  plain_type,
)

Array = jax.Array
Function = TypeVar('Function', bound=Callable)
Class = TypeVar('Class', bound=type)


def checked(function: Function) -> Function:
  """Returns a function, or a dataclass, that checks its arguments by their types.

  It raises ValueError for a number, a word or a list that does not fit, and TypeError for
  another object.
  """
  if isinstance(function, type):
    cls: Any = function
    cls.__init__ = checked(cls.__init__)
    return cls

  @functools.wraps(function)
  def call(*args, **kwargs):
    kinds = _kinds_of(function)
    for name, value in (*zip(kinds, args, strict=False), *kwargs.items()):
      _check(name, value, kinds.get(name, ()))
    return function(*args, **kwargs)

  return call  # pyright: ignore[reportReturnType]


def needed(text: str) -> Callable[[Class], Class]:
  """Returns a decorator of a class: `text` completes 'it must be ...' of its instances."""

  def name(cls):
    setattr(cls, '_needed', text)  # noqa: B010  # type checkers would ask instances for it
    return cls

  return name


class _Kind(NamedTuple):
  """A type without unions: in words, which values fit, the type, and if `ranges` has it."""

  text: str
  fits: Callable[[Any], bool]
  hint: Any
  is_plain: bool = False


@functools.cache
def _kinds_of(function: Callable) -> dict[str, tuple[_Kind, ...]]:
  # The kinds of each parameter in turn; none: anything.
  parameters = inspect.signature(function).parameters
  return {name: _kinds(parameter.annotation) for name, parameter in parameters.items()}


@functools.cache
def _kinds_of_fields(cls: type) -> dict[str, tuple[_Kind, ...]]:
  # A field of arrays may also have numbers.
  hints = get_type_hints(cls, include_extras=True)
  return {name: _kinds(hint | float if hint is Array else hint) for name, hint in hints.items()}


def _kinds(hint):
  hint = without_use(getattr(hint, '__bound__', None) or hint)
  hints = get_args(hint) if get_origin(hint) in UNIONS else (hint,)
  kinds = [*map(_kind, hints)]
  return () if None in kinds else tuple(filter(None, kinds))


def _check(name, value, kinds):
  if not kinds:
    return
  if not any(kind.fits(value) for kind in kinds):
    _refuse(name, value, kinds)
  if hasattr(value, '_fields') and any(kind.hint is type(value) for kind in kinds):
    for field, its_kinds in _kinds_of_fields(type(value)).items():
      _check(f'{name}.{field}', getattr(value, field), its_kinds)


def _refuse(name, value, kinds):
  plain = [kind.hint for kind in kinds if kind.is_plain]
  value = _number(value)
  only_plain = len(plain) == len(kinds)
  is_plain = isinstance(value, (NoneType, list, *PLAIN)) if only_plain else is_number(value)
  for hint in plain if is_plain and not hasattr(value, '_fields') else ():
    try:
      convert(value, hint)
    except Misfit as error:
      if error.words:
        check_choice(name + error.place, error.value, error.words)
      raise ValueError(
        f'{name}{error.place} must be {error.expected}, not {_shown(error.value, kinds)}'
      ) from None
  error = ValueError if only_plain else TypeError
  texts = ' or '.join(dict.fromkeys(kind.text for kind in kinds))
  raise error(f'{name} must be {texts}, not {_shown(value, kinds)}')


def _kind(hint) -> _Kind | None:
  # None for a type that says nothing.
  origin, args = get_origin(hint), get_args(hint)
  if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, str):
    return None
  if hint is NoneType:
    return _Kind('None', lambda value: value is None, hint)
  is_union = origin is Annotated and get_origin(args[0]) in UNIONS
  if plain_type(hint) is not object and not is_union:
    return _Kind(_in_words(hint), functools.partial(_is_plain, hint), hint, True)
  if origin is Annotated:  # Its rules say all.
    rules = [x for x in args[1:] if isinstance(x, Rule)]
    return _Kind(rules[-1].text, lambda value: all(r.holds(value) for r in rules), args[0])
  if hint in (Array, np.ndarray):
    return _Kind('an array', is_array, hint)
  if origin is Callable:
    if args[0] is ...:
      return _Kind('a function', callable, hint)
    words = [getattr(x, '__name__', str(x)).rpartition('.')[2] for x in args[0]]
    fits = lambda value: _takes(value, len(words), returns=args[1])  # noqa: E731
    return _Kind(f'a function ({", ".join(words)})', fits, hint)
  cls = origin or hint
  if issubclass(cls, Mapping):
    return _Kind('a dict', lambda value: isinstance(value, Mapping), hint)
  if getattr(cls, '_is_protocol', False):
    return _protocol(cls)
  text = getattr(cls, '_needed', f'a {cls.__name__}')
  return _Kind(text, lambda value: isinstance(value, cls), hint)


def _protocol(cls):
  # A function that takes its arguments, or else an object that has its members.
  if '__call__' not in vars(cls):
    members = [name for name in vars(cls) if not name.startswith('_')]
    fits = lambda value: all(hasattr(value, name) for name in members)  # noqa: E731
    return _Kind(getattr(cls, '_needed', f'a {cls.__name__}'), fits, cls)
  signature = inspect.signature(cls.__call__)
  _, *parameters = signature.parameters.values()
  keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
  count = len(parameters) - len(keywords)
  listing = ', '.join(p.name for p in parameters[:count]) + ', *' * bool(keywords)
  text = f'a function ({", ".join([listing, *keywords])})'
  if hasattr(cls, '_needed'):
    text = f'{cls._needed}, {text}'
  fits = lambda value: _takes(  # noqa: E731
    value, count, keywords, signature.return_annotation, 'from_logsnr' in vars(cls)
  )
  return _Kind(text, fits, cls)


def _takes(
  function: Any,
  count: int,
  keywords: Sequence[str] = (),
  returns: Any = Any,
  is_schedule: bool = False,
) -> bool:
  # Whether a function takes so many arguments and these. A class is to be called first, and a
  # schedule is a function that is meant nowhere else. What ours return is known.
  if not callable(function) or isinstance(function, type):
    return False
  if hasattr(function, 'from_logsnr') and not is_schedule:
    return False
  is_ours = getattr(function, '__code__', None) is _CALL
  try:
    signature = inspect.signature(function, follow_wrapped=is_ours)
    signature.bind(*range(count), **dict.fromkeys(keywords))
  except TypeError:
    return False
  except ValueError:  # functions of other languages
    return True
  return not is_ours or returns in (Any, signature.return_annotation)


_CALL = checked(lambda: None).__code__


def _is_plain(hint: Any, value: Any) -> bool:
  # Whether a number, a word or a list fits; a traced number has no value yet.
  kind = plain_type(hint)
  if _is_traced(value):
    return kind in (bool, int, float)
  value = _number(value)
  is_list = isinstance(value, Sequence) and not isinstance(value, str)
  if kind is tuple and is_list and not hasattr(value, '_fields'):
    value = [*map(_number, value)]
    if any(map(_is_traced, value)):
      return True
  elif not isinstance(value, str if kind is str else Number):  # `convert` reads 'inf'
    return False
  try:
    convert(value, hint)
  except Misfit:
    return False
  return True


def _is_traced(value):
  # Symbolic sizes of `jax.export` are objects of this kind, too.
  return isinstance(value, Tracer) or hasattr(value, '__jax_array__')


def _number(value: Any) -> Any:
  # The Python number of an array [], the list of an array [N]; others as they are.
  if isinstance(value, jax.Array | np.ndarray | np.generic) and not isinstance(value, Tracer):
    if np.ndim(value) <= 1 and is_array(value):
      return np.asarray(value).tolist()
  return value


def is_number(value: Any) -> bool:
  """Returns whether a value is a number of Python, and no bool."""
  return isinstance(value, Number) and not isinstance(value, bool)


def is_array(value: Any) -> bool:
  """Returns whether a value is an array of numbers or of bools, also a traced one."""
  if not isinstance(value, jax.Array | np.ndarray | np.generic):
    return hasattr(value, '__jax_array__')
  return jnp.issubdtype(value.dtype, np.number) or value.dtype == bool


def is_numbers(value: Any) -> bool:
  """Returns whether a value is an array, not of one number, or lists of numbers."""
  if type(value) not in (list, tuple):
    return is_array(value) and np.ndim(value) > 0
  leaves = jax.tree.leaves(value, is_leaf=lambda x: x is None or hasattr(x, '_fields'))
  if not all(isinstance(x, (bool, int, float)) or is_array(x) for x in leaves):
    return False
  return any(map(_is_traced, leaves)) or _is_even(value)


def _is_even(value):
  try:
    np.asarray(value)
  except ValueError:
    return False
  return True


def is_key(value: Any) -> bool:
  """Returns whether a value is a random key, or keys; `jax.random.PRNGKey` makes integers."""
  dtype = getattr(value, 'dtype', None)
  if dtype is None:
    return False
  return jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32


A_KEY = 'a random key, such as jax.random.key(0)'
Key = Annotated[Array, Rule(A_KEY, is_key)]  # [] or [B]
Numbers = Annotated[npt.ArrayLike, Rule('an array or a list of numbers', is_numbers)]


def _in_words(hint):
  # What a number, a word or a list must be.
  origin, args = get_origin(hint), get_args(hint)
  if origin is Annotated:
    rules = [x.text for x in args[1:] if isinstance(x, Rule)]
    return rules[-1] if rules else _in_words(args[0])
  words = args if plain_type(hint) is str else ()
  return f'one of {", ".join(words)}' if words else PLAIN[plain_type(hint)]


def _shown(value, kinds):
  # What came, in one line.
  if isinstance(value, type):
    name = value.__name__
    return f'the class {name}: call it, as {name}(...)'
  name = getattr(value, '__name__', None)
  if name is None or not callable(value):
    text, is_tuple = repr(value), hasattr(value, '_fields')
    if is_tuple and is_array(value[0]):
      return f'a {type(value).__name__} {[*np.shape(value[0])]}'
    is_plain = isinstance(value, (NoneType, *PLAIN)) and not is_tuple
    return text if is_plain and len(text) <= 80 and '\n' not in text else kind_of(value)
  try:
    signature = inspect.signature(value)
  except (TypeError, ValueError):
    return f'the function {name}'
  if signature.return_annotation in [kind.hint for kind in kinds]:
    return f'{name}: call it, as {name}(...)'
  parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
  return f'the function {name}{inspect.Signature(parameters)}'
