"""Orbax checkpoints of a run: `<workdir>/checkpoints/<step>/`.

Four items per step: `params`, `ema_params`, `state` (the rest of TrainState)
and `config`, so that sampling reads only the weights it needs. Arrays come back
with the sharding asked for, whatever devices wrote them.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from diffusion_jax.training.state import TrainState

_ARRAYS = ('params', 'ema_params', 'state')


def open_manager(
  workdir: str | Path, keep: int = 2, read_only: bool = False
) -> ocp.CheckpointManager:
  """The manager of a run's checkpoints; the latest `keep` are kept.

  Raises FileNotFoundError for read_only where there is no checkpoint.
  """
  folder = Path(workdir).absolute() / 'checkpoints'
  handlers = {name: ocp.StandardCheckpointHandler() for name in _ARRAYS}
  # max_to_keep, the older option, can delete the latest step
  policy = checkpoint_managers.LatestN(keep)
  options = ocp.CheckpointManagerOptions(
    preservation_policy=policy, cleanup_tmp_directories=True
  )
  if read_only:
    if not folder.is_dir() or not any(folder.iterdir()):
      raise FileNotFoundError(
        f'there is no checkpoint in {workdir}: train first, or give the '
        '--workdir of a run'
      )
    options = ocp.CheckpointManagerOptions(read_only=True)
  return ocp.CheckpointManager(
    folder,
    options=options,
    item_handlers={**handlers, 'config': ocp.JsonCheckpointHandler()},
  )


def save(
  manager: ocp.CheckpointManager, state: TrainState, config: dict
) -> None:
  """Starts saving `state` under its step; a step already there is left alone.

  config: plain dict, stored as JSON. `manager.close()` waits for the writing.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  items = {name: ocp.args.StandardSave(x) for name, x in _split(state).items()}
  args = ocp.args.Composite(config=ocp.args.JsonSave(config), **items)
  if not manager.save(step, args=args, force=True):
    raise OSError(f'checkpoint {step} was not saved in {manager.directory}')


def restore_latest(
  manager: ocp.CheckpointManager, like: TrainState
) -> TrainState | None:
  """The newest state, or None where there is none yet.

  like: shapes with the shardings wanted (`jax.ShapeDtypeStruct`s), or a state.
  Raises a ValueError that names the first parameter that does not fit, if the
  checkpoint is of another network.
  """
  step = manager.latest_step()
  if step is None:
    return None
  found = manager.item_metadata(step)
  for name, tree in _split(like).items():
    kind = 'optimizer' if name == 'state' else 'network'
    what = f'checkpoint {step} is of another {kind}'
    check_fits(found[name].tree, tree, what)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
  )
  items = {
    name: ocp.args.StandardRestore(tree)
    for name, tree in _split(abstract).items()
  }
  restored = manager.restore(step, args=ocp.args.Composite(**items))
  return restored['state']._replace(
    params=restored['params'], ema_params=restored['ema_params']
  )


def restore_params(
  workdir: str | Path, ema: bool = True, like: Any = None
) -> tuple[Any, dict]:
  """(params, config) of the newest checkpoint of a run, on one device.

  ema=False gives the weights of the optimiser instead of their average. Raises
  FileNotFoundError without a checkpoint, and, given the shapes `like` of the
  expected params, a ValueError that names the first that does not fit.
  """
  name = 'ema_params' if ema else 'params'
  manager = open_manager(workdir, read_only=True)
  step = manager.latest_step()
  if step is None:
    raise FileNotFoundError(f'there is no complete checkpoint in {workdir}')
  found = manager.item_metadata(step)[name].tree
  if like is not None:
    check_fits(found, like, f'checkpoint {step} is of another network')
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), found
  )
  items = {name: ocp.args.StandardRestore(abstract)}
  args = ocp.args.Composite(config=ocp.args.JsonRestore(), **items)
  restored = manager.restore(step, args=args)
  manager.close()
  return restored[name], restored['config']


def check_fits(found: Any, expected: Any, what: str) -> None:
  """Raises ValueError(what: ...) at the first leaf whose shape differs."""
  found, expected = _shapes(found), _shapes(expected)
  for path in sorted(found | expected):
    if found.get(path) != expected.get(path):
      raise ValueError(
        f'{what}: {path} is {found.get(path, "missing")} there, '
        f'{expected.get(path, "absent")} here'
      )


def _split(state):
  return {
    'params': state.params,
    'ema_params': state.ema_params,
    'state': state._replace(params=(), ema_params=()),
  }


def _shapes(tree):
  # Orbax's metadata has lists and dicts for tuples and NamedTuples, and None
  # for empty ones: only the names along the path are compared
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  shapes = {}
  for path, leaf in leaves:
    names = [str(getattr(k, 'name', getattr(k, 'key', k))) for k in path]
    names = [name.strip('[]') for name in names]
    shapes['/'.join(names)] = list(leaf.shape)
  return shapes
