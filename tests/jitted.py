"""`diffusion_jax` with its equations under `jax.jit`.

Called eagerly, each operation of a function is compiled by itself for every new
shape, which is most of the time of the tests; tests/core/test_transforms.py
holds jitted and eager calls against each other.
"""

import inspect

import jax

import diffusion_jax as dj

_EQUATIONS = (
  'bits_per_dim', 'denoising_loss', 'discretized_log_prob', 'eps_from_x0',
  'error_scale', 'forward_step', 'kl', 'log_prob', 'p_reverse', 'q_posterior',
  'q_sample', 'reverse_variance', 'score_from_x0', 'simple_loss', 'target',
  'to_x0', 'weighted_eps_loss',
)  # fmt: skip
_STATIC = {
  'kind', 'variance', 'cdf', 'num_levels', 'weight', 'data_shape', 'sigma_data'
}  # fmt: skip


def _jit(function):
  names = set(inspect.signature(function).parameters) & _STATIC
  return jax.jit(function, static_argnames=tuple(names))


globals().update({name: getattr(dj, name) for name in dir(dj)})
globals().update({name: _jit(getattr(dj, name)) for name in _EQUATIONS})
