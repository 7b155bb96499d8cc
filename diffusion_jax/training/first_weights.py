"""Begins a training with the weights of another run, training.init_from."""

import functools
from typing import Any

import jax
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.training import checkpoints

_MOST = 10  # names in one message
_name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')


def begin(state: Any, workdir: str) -> Any:
  """Returns the state at step 0 with the averaged weights of a run.

  A leaf that the run does not have, or has in another shape, begins as it does
  without; its name is printed. Raises UserError where there is no run, and
  where more than half of the leaves do.
  """
  try:
    found, _ = checkpoints.restore_params(workdir)
  except (OSError, ValueError) as error:
    raise UserError(f'config.training.init_from: {error}') from error
  found = _by_name(found)
  ours = _by_name(state.params)
  afresh = {
    name: f'{name} {list(x.shape)}{_there(found, name)}'
    for name, x in ours.items()
    if name not in found or found[name].shape != x.shape
  }
  if 2 * len(afresh) > len(ours):
    example = next(iter(afresh.values()))
    raise UserError(
      f'config.training.init_from: {workdir} is of another network: '
      f'{len(afresh)} of {len(ours)} leaves do not fit, such as {example}'
    )
  unused = [name for name in found if name not in ours]
  print(
    f'weights of {workdir}: {len(ours) - len(afresh)} of {len(ours)} leaves'
    + _listed('begin afresh', list(afresh.values()))
    + _listed('not used', unused)
  )

  def place(tree):
    def leaf(path, x):
      name = _name(path)
      if name in afresh:
        return x
      value = np.array(found[name])  # its own: a state is donated
      return jax.make_array_from_callback(
        x.shape, x.sharding, lambda index: value[index]
      )

    return jax.tree_util.tree_map_with_path(leaf, tree)

  return state._replace(
    params=place(state.params),
    ema_params=place(state.ema_params),
    more_ema_params={n: place(x) for n, x in state.more_ema_params.items()},
  )


def _by_name(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_name(path): x for path, x in leaves}


def _there(found, name):
  return f' ({list(found[name].shape)} there)' if name in found else ''


def _listed(what, names):
  if not names:
    return ''
  more = len(names) - _MOST
  rest = f' and {more} more' if more > 0 else ''
  return f'; {what}: {", ".join(names[:_MOST])}{rest}'
