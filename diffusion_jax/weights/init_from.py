"""Starts a training with the weights of another run (training.init_from)."""

from collections.abc import Callable

import jax
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.errors import UserError
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import load
from diffusion_jax.weights.checkpoints import by_name

_MAX_NAMES = 10  # in one message


def read(params: Params, workdir: str) -> Callable[[TrainState], TrainState]:
  """Returns state at step 0 -> the same with the averaged weights of a run.

  params: the state's parameters, or their shapes. A leaf that the run does not
  have, or has in another shape, keeps its value, and its name is printed.
  Raises UserError if there is no run, or if more than half of the leaves do not
  fit.
  """
  try:
    theirs = by_name(load.open(workdir).params)
  except (OSError, ValueError) as error:
    raise UserError(f'config.training.init_from: {error}') from error
  ours, kept = by_name(params), {}
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

  def leaf(name, x):
    if name in kept:
      return x
    value = np.array(theirs[name])  # a copy, since a state is donated
    return jax.make_array_from_callback(x.shape, x.sharding, lambda index: value[index])

  def place(tree):
    leaves = [leaf(name, x) for name, x in by_name(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)

  return lambda state: state._replace(
    params=place(state.params),
    ema_params=place(state.ema_params),
    more_ema_params={n: place(x) for n, x in state.more_ema_params.items()},
  )


def _listed(what, names):
  if not names:
    return ''
  more = len(names) - _MAX_NAMES
  rest = f' and {more} more' if more > 0 else ''
  return f'; {what}: {", ".join(names[:_MAX_NAMES])}{rest}'
