"""Orbax checkpoints of a run: `<workdir>/checkpoints/<step>/`.

Items per step: `params`, `ema_params`, `ema_params_<name>` for averages at
other rates, `state` (the rest of TrainState) and `config`, so that sampling
reads only the weights it needs. Arrays come back with the sharding asked for,
whatever devices wrote them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from diffusion_jax.training.state import TrainState

METRIC = 'test_loss'  # the best checkpoint is the one where it is lowest


def open_manager(
  workdir: str | Path,
  keep: int = 2,
  *,
  keep_every: int = 0,
  keep_best: int = 0,
  more_emas: Iterable[str] = (),
) -> ocp.CheckpointManager:
  """The manager that writes a run's checkpoints.

  Kept are the latest `keep`, those at multiples of keep_every, and the
  keep_best with the lowest METRIC. more_emas: keys of state.more_ema_params.
  """
  folder = _folder(workdir)
  # max_to_keep, the older option, can delete the latest step
  policies = [checkpoint_managers.LatestN(keep)]
  if keep_every:
    policies.append(checkpoint_managers.EveryNSteps(keep_every))
  if keep_best:
    best = checkpoint_managers.BestN(
      get_metric_fn=_metric,
      reverse=True,  # the lowest come last, and the last are kept
      n=keep_best,
      keep_checkpoints_without_metrics=False,
    )
    policies.append(best)
  options = ocp.CheckpointManagerOptions(
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
    # with it metrics are written down, and missed where there are none
    best_fn=_metric if keep_best else None,
    cleanup_tmp_directories=True,
  )
  return _open(folder, options, {_ema_item(name) for name in more_emas})


def open_read_only(workdir: str | Path) -> ocp.CheckpointManager:
  """The manager that reads them; FileNotFoundError where there are none."""
  folder = _folder(workdir)
  if not folder.is_dir() or not any(folder.iterdir()):
    raise FileNotFoundError(
      f'there is no checkpoint in {workdir}: train first, or give the '
      '--workdir of a run'
    )
  options = ocp.CheckpointManagerOptions(read_only=True, best_fn=_metric)
  return _open(folder, options, set())


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  config: dict,
  metrics: dict[str, float] | None = None,
) -> None:
  """Starts saving `state` under its step; a step already there is left alone.

  config: plain dict, stored as JSON; metrics: with METRIC, to know the best.
  `manager.close()` waits for the writing.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  items = {name: ocp.args.StandardSave(x) for name, x in _split(state).items()}
  args = ocp.args.Composite(config=ocp.args.JsonSave(config), **items)
  if not manager.save(step, args=args, metrics=metrics, force=True):
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
    if name not in found:
      raise ValueError(
        f'checkpoint {step} has no {name}: it was written with other EMA rates'
      )
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
    params=restored['params'],
    ema_params=restored['ema_params'],
    more_ema_params={
      name: restored[_ema_item(name)] for name in like.more_ema_params
    },
  )


def restore_params(
  workdir: str | Path,
  ema: bool | str = True,
  like: Any = None,
  checkpoint: int | str = 'latest',
) -> tuple[Any, dict]:
  """(params, config) of a checkpoint of a run, on one device.

  ema: the average, or False for the weights of the optimiser, or the name of
  another average ('0.999'); checkpoint: a step, 'latest' or 'best'. Raises
  FileNotFoundError where there is no such thing, and, given the shapes `like`
  of the expected params, a ValueError that names the first that does not fit.
  """
  item = _ema_item(ema) if isinstance(ema, str) else _ITEMS[not ema]
  with open_read_only(workdir) as manager:
    step = _find_step(manager, checkpoint, workdir)
    found = manager.item_metadata(step)
    if item not in found:
      others = [n.removeprefix(_ema_item('')) for n in found if 'ema' in n]
      raise FileNotFoundError(
        f'{workdir} has no average {ema!r} of the parameters, but '
        f'{", ".join(n for n in others if n != _ITEMS[0]) or "its own only"}'
      )
    found = found[item].tree
    if like is not None:
      check_fits(found, like, f'checkpoint {step} is of another network')
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), found
    )
    items = {item: ocp.args.StandardRestore(abstract)}
    args = ocp.args.Composite(config=ocp.args.JsonRestore(), **items)
    restored = manager.restore(step, args=args)
  return restored[item], restored['config']


def check_fits(found: Any, expected: Any, what: str) -> None:
  """Raises ValueError(what: ...) at the first leaf whose shape differs."""
  found, expected = _shapes(found), _shapes(expected)
  for path in sorted(found | expected):
    if found.get(path) != expected.get(path):
      raise ValueError(
        f'{what}: {path} is {found.get(path, "missing")} there, '
        f'{expected.get(path, "absent")} here'
      )


_ITEMS = ('ema_params', 'params', 'state')


def _ema_item(name):
  return f'ema_params_{name}'


def _split(state):
  rest = state._replace(params=(), ema_params=(), more_ema_params=())
  others = {
    _ema_item(name): tree for name, tree in state.more_ema_params.items()
  }
  arrays = (state.ema_params, state.params, rest)
  return dict(zip(_ITEMS, arrays, strict=True)) | others


def _metric(metrics):
  return metrics[METRIC]


def _folder(workdir):
  return Path(workdir).absolute() / 'checkpoints'


def _open(folder, options, items):
  # Orbax wants to know the items beforehand, those of older steps as well
  found = {path.name for path in folder.glob(f'*/{_ema_item("*")}')}
  handlers = {
    name: ocp.StandardCheckpointHandler() for name in {*_ITEMS, *items, *found}
  }
  return ocp.CheckpointManager(
    folder,
    options=options,
    item_handlers={**handlers, 'config': ocp.JsonCheckpointHandler()},
  )


def _find_step(manager, checkpoint, workdir):
  steps = sorted(manager.all_steps())
  if not steps:
    raise FileNotFoundError(f'there is no complete checkpoint in {workdir}')
  if checkpoint == 'latest':
    return steps[-1]
  if checkpoint == 'best':
    with_metrics = [step for step in steps if manager.metrics(step)]
    if not with_metrics:
      raise FileNotFoundError(
        f'no checkpoint in {workdir} knows how good it is: train with '
        'keep_best and an evaluation'
      )
    return min(with_metrics, key=lambda s: manager.metrics(s)[METRIC])
  if checkpoint not in steps:
    raise FileNotFoundError(
      f'there is no checkpoint {checkpoint} in {workdir}, but '
      f'{", ".join(map(str, steps))}'
    )
  return checkpoint


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
