"""Divisions that XLA compiles in one way, whatever the program around them."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from diffusion_jax.aliases import PyTree

Values = list[Any]
# Operations that call a function, by the name of the parameter; no gradient is taken any more.
_CALLS = {'jit': 'jaxpr', 'custom_jvp_call': 'call_jaxpr', 'custom_vjp_call': 'call_jaxpr'}


def with_fixed_divisions(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
  """Returns a function whose divisions by a broadcast array are products with its inverse.

  XLA rewrites some of them so, as a / sum(a) of a softmax and its gradient. Which ones depends on
  the number of devices, and the two round differently (jaxlib 0.10.2). It leaves other divisions
  as they are. Those of whole numbers, which are exact, are not changed.
  """

  def call(*arguments):
    flat, tree = jax.tree.flatten(arguments)
    jaxpr, shapes = jax.make_jaxpr(
      lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True
    )(*flat)
    results = _evaluate(jaxpr.jaxpr, jaxpr.consts, flat, {})
    return jax.tree.unflatten(jax.tree.structure(shapes), results)

  return call


def _evaluate(jaxpr: Jaxpr, consts: Values, arguments: Values, broadcast: dict) -> Values:
  # broadcast: by the id of an array, (the array, the array that it is made of, how).
  values: dict[Any, Any] = dict(
    zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
  )

  def read(atom):
    return atom.val if isinstance(atom, Literal) else values[atom]

  for equation in jaxpr.eqns:
    inputs, name = [read(atom) for atom in equation.invars], equation.primitive.name
    # Names of scopes say what a part of the program is, also to `planning.programs`.
    scopes = str(equation.source_info.name_stack)
    with jax.named_scope(scopes) if scopes else contextlib.nullcontext():
      results = _results(equation, inputs, broadcast)
    for variable, result in zip(equation.outvars, results, strict=True):
      assert _kind(jax.typeof(result)) == _kind(variable.aval), equation
      values[variable] = result
    if name == 'broadcast_in_dim':
      broadcast[id(results[0])] = results[0], inputs[0], equation.params
  return [read(atom) for atom in jaxpr.outvars]


def _kind(aval):
  return getattr(aval, 'shape', None), getattr(aval, 'dtype', None)


def _results(equation, inputs, broadcast):
  primitive, params = equation.primitive, equation.params
  if primitive.name == 'div' and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact):
    if id(inputs[1]) in broadcast:
      _, small, places = broadcast[id(inputs[1])]
      return [inputs[0] * lax.broadcast_in_dim_p.bind(_inverse(small), **places)]
    if jnp.size(inputs[1]) < jnp.size(inputs[0]):
      return [inputs[0] * _inverse(inputs[1])]
    return [lax.optimization_barrier(primitive.bind(*lax.optimization_barrier(inputs)))]
  if inner := params.get(_CALLS.get(primitive.name, '')):
    return _evaluate(inner.jaxpr, inner.consts, inputs, broadcast)
  params = {key: _changed(value) for key, value in params.items()}
  results = primitive.bind(*inputs, **params)
  return results if primitive.multiple_results else [results]


def _inverse(x):
  return lax.optimization_barrier(1.0 / x)


def _traced(jaxpr, consts, shapes):
  return jax.make_jaxpr(lambda *inputs: _evaluate(jaxpr, consts, [*inputs], {}))(*shapes)


@functools.singledispatch
def _changed(value: Any) -> Any:
  # A parameter of an operation, whose functions have such divisions too.
  return value


@_changed.register
def _(value: ClosedJaxpr):
  return _traced(value.jaxpr, value.consts, value.in_avals)


@_changed.register
def _(value: Jaxpr):
  return _traced(value, [], [variable.aval for variable in value.invars]).jaxpr


@_changed.register
def _(value: tuple):  # the branches of `cond`; named tuples are options
  return tuple(map(_changed, value)) if type(value) is tuple else value
