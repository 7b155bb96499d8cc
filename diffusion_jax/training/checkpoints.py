"""Orbax checkpoints of a run: `<workdir>/checkpoints/<step>/`.

Items per step: `params`, `ema_params`, `ema_params_<name>` for averages at
other rates, `state` (the rest of TrainState) and `config`, so that sampling
reads only the weights it needs. Arrays are restored with the sharding of the
target, whatever devices wrote them. A checkpoint appears when it is complete,
with the sums of its files (`checksums.py`), which are checked before reading.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from diffusion_jax.training import checksums, integrity
from diffusion_jax.training.state import TrainState

# The best checkpoint is the one where this number is lowest. Checkpoints of
# former versions have the test loss alone.
CRITERION = 'criterion'
_FORMER = 'test_loss'


def open_manager(
  workdir: str | Path,
  keep: int = 2,
  *,
  keep_every: int = 0,
  keep_best: int = 0,
  more_emas: Iterable[str] = (),
) -> ocp.CheckpointManager:
  """Returns the manager that writes the checkpoints of a run.

  It keeps the latest `keep`, those at multiples of keep_every, and the
  keep_best with the lowest CRITERION. more_emas: keys of state.more_ema_params.
  Damaged checkpoints after the newest good one are moved to `damaged/` in
  workdir, with a warning. Raises ValueError if none is good.
  """
  folder = _folder(workdir)
  if jax.process_index() == 0:
    integrity.move_damaged(folder)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('checkpoints were checked')
  # max_to_keep, the older option, can delete the latest step.
  policies: list[Any] = [checkpoint_managers.LatestN(keep)]
  if keep_every:
    policies.append(checkpoint_managers.EveryNSteps(keep_every))
  if keep_best:
    best = checkpoint_managers.BestN(
      get_metric_fn=_metric,
      reverse=True,  # The lowest come last, and the last are kept.
      n=keep_best,
      keep_checkpoints_without_metrics=False,
    )
    policies.append(best)
  options = ocp.CheckpointManagerOptions(
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
    # With it Orbax writes metrics, and requires them at every save.
    best_fn=_metric if keep_best else None,
    cleanup_tmp_directories=True,
    async_options=_with_sums(folder),
  )
  return _open(folder, options, {_ema_item(name) for name in more_emas})


def open_read_only(workdir: str | Path) -> ocp.CheckpointManager:
  """Returns the manager that reads them; FileNotFoundError without any."""
  folder = _folder(workdir)
  if not folder.is_dir() or not any(folder.iterdir()):
    raise FileNotFoundError(
      f'there is no checkpoint in {workdir}: train first, or give the '
      '--workdir of a run'
    )
  options = ocp.CheckpointManagerOptions(
    read_only=True,
    lightweight_initialize=True,  # Reads no metrics: they may be damaged.
  )
  return _open(folder, options, set())


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  config: dict,
  metrics: dict[str, float] | None = None,
) -> None:
  """Starts saving `state` under its step, unless that step is there already.

  config: plain dict, stored as JSON; metrics: with CRITERION, by which the
  best are kept. Raises OSError if this checkpoint, or the one before, cannot be
  written; `finish` waits for it.
  """
  step = int(state.step)
  with _writing(manager):
    if step in manager.all_steps():
      return
    items = {
      name: ocp.args.StandardSave(tree) for name, tree in _split(state).items()
    }
    manager.save(
      step,
      args=ocp.args.Composite(config=ocp.args.JsonSave(config), **items),
      metrics=metrics,
      force=True,
      custom_metadata=checksums.MARK,
    )


def check_written(manager: ocp.CheckpointManager) -> None:
  """Raises OSError if the last save has failed; waits for none under way."""
  if not manager.is_saving_in_progress():
    with _writing(manager):
      manager.wait_until_finished()


def finish(manager: ocp.CheckpointManager) -> None:
  """Waits until all is written, and closes; OSError if writing fails."""
  with _writing(manager):
    manager.close()


def save_params(
  workdir: str | Path,
  step: int,
  params: Any,
  config: dict,
  items: Iterable[str] = ('ema_params',),
) -> None:
  """Saves params alone, as the averaged ones of a run, and waits for it.

  items: 'ema_params', 'params', which of these they are. Does nothing if the
  step is there already.
  """
  folder = _folder(workdir)
  options = ocp.CheckpointManagerOptions(
    cleanup_tmp_directories=True, async_options=_with_sums(folder)
  )
  # Of the memory that writing takes: more than the largest leaf.
  sizes = [x.nbytes for x in jax.tree.leaves(params)]
  limit = max(*sizes, sum(sizes) // 16) + 2**23
  with _open(folder, options, set(), limit / 1e9) as manager:
    if step not in manager.all_steps():
      # The same on every host. Of NumPy's arrays Orbax would write copies.
      place = jax.device_put if jax.process_count() == 1 else np.asarray
      arrays = jax.tree.map(place, params)
      saved = {name: ocp.args.StandardSave(arrays) for name in items}
      args = ocp.args.Composite(config=ocp.args.JsonSave(config), **saved)
      manager.save(step, args=args, force=True, custom_metadata=checksums.MARK)


def restore_latest(
  manager: ocp.CheckpointManager, target: TrainState
) -> TrainState | None:
  """Returns the newest state, None if there is no checkpoint.

  target: the abstract state (`jax.ShapeDtypeStruct`s with shardings), or a
  state. Raises ValueError if the checkpoint cannot be read, or, with the name
  of the first parameter that does not fit, if it is of another network.
  """
  step = manager.latest_step()
  if step is None:
    return None
  with _reading(manager, step):
    found = manager.item_metadata(step)
  for name, tree in _split(target).items():
    kind = 'optimizer' if name == 'state' else 'network'
    if name not in found:
      raise ValueError(
        f'checkpoint {step} has weights alone: they begin another run, of '
        'another --workdir, by --config.training.init_from=<this one>'
        if name == 'state'
        else f'checkpoint {step} has no {name}: it was written with other EMA '
        'rates'
      )
    what = f'checkpoint {step} is of another {kind}'
    check_fits(found[name].tree, tree, what)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    target,
  )
  items = {
    name: ocp.args.StandardRestore(tree)
    for name, tree in _split(abstract).items()
  }
  with _reading(manager, step):
    restored = manager.restore(step, args=ocp.args.Composite(**items))
  return restored['state']._replace(
    params=restored['params'],
    ema_params=restored['ema_params'],
    more_ema_params={
      name: restored[_ema_item(name)] for name in target.more_ema_params
    },
  )


def find_step(workdir: str | Path, checkpoint: int | str = 'latest') -> int:
  """Returns the step that `checkpoint` names, as in `restore_params`."""
  with open_read_only(workdir) as manager:
    return _find_step(manager, checkpoint, workdir)


def restore_params(
  workdir: str | Path,
  ema: bool | str = True,
  target: Any = None,
  checkpoint: int | str = 'latest',
) -> tuple[Any, dict]:
  """Returns (params, config) of a checkpoint of a run, on one device.

  ema: True for the average, False for the weights of the optimiser, or the name
  of another average ('0.999'); target: the abstract params that are expected,
  unchecked for None; checkpoint: a step, 'latest' or 'best'. Raises
  FileNotFoundError if there is no such checkpoint or average, ValueError if it
  is damaged or does not fit `target`.
  """
  item = _ema_item(ema) if isinstance(ema, str) else _ITEMS[not ema]
  with open_read_only(workdir) as manager:
    step = _find_step(manager, checkpoint, workdir)
    _refuse_damaged(manager, step)
    with _reading(manager, step):
      found = manager.item_metadata(step)
    if item not in found:
      others = [n.removeprefix(_ema_item('')) for n in found if 'ema' in n]
      raise FileNotFoundError(
        f'{workdir} has no average {ema!r} of the parameters, but '
        f'{", ".join(n for n in others if n != _ITEMS[0]) or "its own only"}'
      )
    found = found[item].tree
    if target is not None:
      check_fits(found, target, f'checkpoint {step} is of another network')
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), found
    )
    items = {item: ocp.args.StandardRestore(abstract)}
    args = ocp.args.Composite(config=ocp.args.JsonRestore(), **items)
    with _reading(manager, step):
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
  return metrics[CRITERION if CRITERION in metrics else _FORMER]


def _folder(workdir):
  return Path(workdir).absolute() / 'checkpoints'


def _with_sums(folder):
  def write_sums():  # Of the one checkpoint that is being written.
    [draft] = folder.glob(f'*{ocp.path.atomicity_types.TMP_DIR_SUFFIX}*')
    checksums.wait_for_metadata(draft)
    checksums.write(draft)

  # Process 0 calls it when all have written, before the folder gets its final
  # name.
  return ocp.options.AsyncOptions(post_finalization_callback=write_sums)


def _refuse_damaged(manager, step, items=None):
  integrity.check(Path(manager.directory), step, manager.all_steps(), items)


@contextlib.contextmanager
def _reading(manager, step):
  try:
    yield
  except (OSError, ValueError, KeyError) as error:
    raise ValueError(
      f'checkpoint {step} in {manager.directory} cannot be read: '
      f'{_brief(error)}. Move it away to continue from an older one'
    ) from error


@contextlib.contextmanager
def _writing(manager):
  # tensorstore raises ValueError when the disk is full.
  try:
    yield
  except (OSError, ValueError) as error:
    last = manager.latest_step()
    kept = 'there is none yet' if last is None else f'{last} is the last one'
    raise OSError(
      f'a checkpoint could not be written in {manager.directory}, {kept}: '
      f'{_brief(error)}'
    ) from error


def _brief(error):
  # tensorstore surrounds the reason with paths, Orbax appends whole trees.
  code = re.search(r"os_error_code='(\d+)'", str(error))
  if code:
    return os.strerror(int(code[1]))
  return str(error).strip().partition('\n')[0][:300]


def _loss(manager, step):
  # Returns the criterion of a checkpoint, None if it was saved without.
  path = Path(manager.directory) / str(step)
  if not (path / 'metrics').is_dir():
    return None
  _refuse_damaged(manager, step, ['metrics'])
  return _metric(json.loads((path / 'metrics' / 'metrics').read_text()))


def _open(folder, options, items, write_gb: Any = 96):
  # Orbax needs to know the items beforehand, those of older steps as well.
  found = {path.name for path in folder.glob(f'*/{_ema_item("*")}')}
  handlers = {
    name: ocp.StandardCheckpointHandler(save_concurrent_gb=write_gb)
    for name in {*_ITEMS, *items, *found}
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
    losses = {step: _loss(manager, step) for step in steps}
    losses = {step: x for step, x in losses.items() if x is not None}
    if not losses:
      raise FileNotFoundError(
        f'no checkpoint in {workdir} knows how good it is: train with '
        'keep_best and an evaluation'
      )
    return min(losses, key=lambda step: losses[step])
  if not isinstance(checkpoint, int) or checkpoint not in steps:
    raise FileNotFoundError(
      f'there is no checkpoint {checkpoint} in {workdir}, but '
      f'{", ".join(map(str, steps))}'
    )
  return checkpoint


def _shapes(tree):
  # Orbax's metadata has lists and dicts for tuples and NamedTuples, and None
  # for empty ones: only the names along the path are compared.
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  shapes = {}
  for path, leaf in leaves:
    names = [str(getattr(k, 'name', getattr(k, 'key', k))) for k in path]
    names = [name.strip('[]') for name in names]
    shapes['/'.join(names)] = list(leaf.shape)
  return shapes
