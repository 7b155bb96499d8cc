"""Starts a training with the weights of another run (training.init_from)."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.errors import UserError
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import load

_MAX_NAMES = 10  # in one message
_name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')


def read(params: Params, workdir: str) -> Callable[[TrainState], TrainState]:
  """Returns state at step 0 -> the same with the averaged weights of a run.

  params: the state's parameters, or their shapes. A leaf that the run does not
  have, or has in another shape, keeps its value, and its name is printed.
  Raises UserError if there is no run, or if more than half of the leaves do not
  fit.
  """
  try:
    theirs = _by_name(load.open(workdir).params)
  except (OSError, ValueError) as error:
    raise UserError(f'config.training.init_from: {error}') from error
  ours, kept = _by_name(params), {}
  for name, x in ours.items():
    if name not in theirs:
      kept[name] = f'{name} {list(x.shape)}'
    elif theirs[name].shape != x.shape:
      other = list(theirs[name].shape)
      kept[name] = f'{name} {list(x.shape)} ({other} there)'
  if 2 * len(kept) > len(ours):
    raise UserError(
      f'config.training.init_from: {workdir} is of another network: '
      f'{len(kept)} of {len(ours)} leaves do not fit, such as '
      f'{next(iter(kept.values()))}'
    )
  print(
    f'weights of {workdir}: {len(ours) - len(kept)} of {len(ours)} leaves'
    + _listed('initialized', list(kept.values()))
    + _listed('not used', [name for name in theirs if name not in ours])
  )

  def place(tree):
    def leaf(path, x):
      name = _name(path)
      if name in kept:
        return x
      value = np.array(theirs[name])  # a copy, since a state is donated
      return jax.make_array_from_callback(x.shape, x.sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(leaf, tree)

  return lambda state: state._replace(
    params=place(state.params),
    ema_params=place(state.ema_params),
    more_ema_params={n: place(x) for n, x in state.more_ema_params.items()},
  )


def _by_name(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_name(path): x for path, x in leaves}


def _listed(what, names):
  if not names:
    return ''
  more = len(names) - _MAX_NAMES
  rest = f' and {more} more' if more > 0 else ''
  return f'; {what}: {", ".join(names[:_MAX_NAMES])}{rest}'
