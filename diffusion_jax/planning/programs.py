"""Counts the products of a traced program."""

import collections
import math
from typing import Any

import jax

from diffusion_jax.networks.cpu.bilinear import reference
from diffusion_jax.planning.loops import times_of


def flops(jaxpr: Any) -> dict[str, float]:
  """Returns the FLOP of all products and convolutions, by dtype.

  Each term of a sum is 2 FLOP. Scans and loops in a scope `loops.repeated` count as
  often as they repeat, other loops once; of several branches the longest counts, and
  what `jax.checkpoint` computes again does not. jaxpr: the whole program, for all
  devices together.
  """
  total: dict[str, float] = collections.defaultdict(float)
  for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
    name, params = equation.primitive.name, equation.params
    scopes = str(equation.source_info.name_stack)
    if 'rematted_computation' in scopes:  # the name that JAX gives it
      continue
    count = _COUNTS.get(name)
    if count is not None:
      dtype = equation.invars[0].aval.dtype.name
      total[dtype] += count(equation.outvars, equation.invars, params)
      continue
    plain = reference(equation.primitive)
    if plain is not None:
      avals = [x.aval for x in equation.invars]
      times = 1
      for _ in range(params['batch']):  # axes that vmap added
        times *= avals[0].shape[0]
        avals = [aval.update(shape=aval.shape[1:]) for aval in avals]
      inner = jax.make_jaxpr(
        lambda a, b, f=plain, p=params: f(
          a, b, shape=p['shape'][p['batch'] :], how=p['how'], num_devices=None
        )
      )(*avals)
      _add(total, flops(inner), times)
    elif name == 'cond':
      branches = [flops(branch) for branch in params['branches']]
      _add(total, max(branches, key=lambda counts: sum(counts.values())))
    else:
      times = _repetitions(name, params, scopes)
      for inner in _jaxprs(params.values()):
        _add(total, flops(inner), times)
  return dict(total)


def _repetitions(name, params, scopes):
  if name == 'scan':
    return params['length']
  if name == 'shard_map':  # its program is of one device
    return math.prod(params['mesh'].shape[axis] for axis in params['newly_manual_axes'])
  return times_of(scopes) if name == 'while' else 1


def _add(total, more, times=1):
  for dtype, count in more.items():
    total[dtype] += times * count


def _jaxprs(values):
  for value in values:
    if hasattr(value, 'eqns') or hasattr(value, 'jaxpr'):
      yield value
    elif isinstance(value, (tuple, list)):
      yield from _jaxprs(value)


def _dot(results, operands, params):
  contracted, _ = params['dimension_numbers'][0]
  terms = math.prod(operands[0].aval.shape[axis] for axis in contracted)
  return 2.0 * results[0].aval.size * terms


def _attention(results, operands, params):
  # cuDNN's, forward: two products of queries [B, T, heads, d] and keys.
  tokens = operands[1].aval.shape[1]
  return 4.0 * operands[0].aval.size * tokens


def _attention_gradient(results, operands, params):
  # It computes the weights again: five products.
  return 2.5 * _attention(results, operands, params)


def _convolution(results, operands, params):
  # The gradient of a strided convolution has zeros between its inputs.
  numbers, kernel = params['dimension_numbers'], operands[1].aval.shape
  terms = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
  terms /= math.prod(params['lhs_dilation']) * params['batch_group_count']
  return 2.0 * results[0].aval.size * terms


_COUNTS = {
  'dot_general': _dot,
  'conv_general_dilated': _convolution,
  'dot_product_attention_fwd_wrapper': _attention,
  'dot_product_attention_bwd_wrapper': _attention_gradient,
}
