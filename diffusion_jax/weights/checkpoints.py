"""Orbax checkpoints of a run: `<workdir>/checkpoints/<step>/`.

Items per step: `params`, `ema_params`, `ema_params_<name>` for averages at
other rates, `state` (the rest of TrainState), `log` (what the log of the
training goes on with) and `config`, so that sampling reads only the weights it
needs. Arrays are restored with the sharding of the
target on any devices. A checkpoint appears when it is complete, with checksums
of its files (`checksums.py`), which are checked before reading.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from diffusion_jax.aliases import Json, Params
from diffusion_jax.errors import fills_device, naming, reason_of
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import check_files, read_json
from diffusion_jax.runtime.run_folder import Folder
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import checksums

# The best checkpoint has the lowest value of this metric.
CRITERION = 'criterion'
AVERAGE, RAW = 'average', 'raw'  # other weights have the name of their average
_ITEM_OF = {AVERAGE: 'ema_params', RAW: 'params'}


def open_manager(
  workdir: Folder,
  keep: int = 2,
  *,
  every: int = 1,
  keep_every: int = 0,
  keep_best: int = 0,
  more_emas: Iterable[str] = (),
) -> ocp.CheckpointManager:
  """Returns the manager that writes the checkpoints of a run.

  It keeps the newest, up to `keep` with the latest at multiples of `every`,
  those at multiples of keep_every, and the keep_best with the lowest CRITERION.
  So the one of an interruption goes when the next is there. more_emas: keys of
  state.more_ema_params. Moves damaged checkpoints after the newest good one to
  `damaged/` in workdir, with a warning. Raises ValueError if all are damaged.
  """
  folder = _folder(workdir)
  place = run_folder.of_checkpoints(folder)
  if jax.process_index() == 0 and place is folder:
    checksums.move_damaged(folder)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('checkpoints were checked')
  # max_to_keep, the older option, can delete the latest step.
  policies: list[checkpoint_managers.PreservationPolicy] = [_Latest(keep, every)]
  if keep_every:
    policies.append(checkpoint_managers.EveryNSteps(keep_every))
  if keep_best:
    policies.append(_Best(keep_best))
  options = ocp.CheckpointManagerOptions(
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
    # With a `best_fn` Orbax writes metrics, and requires them at every save.
    best_fn=_metric if keep_best else None,
    cleanup_tmp_directories=True,
    async_options=_with_sums(place),
  )
  return _open(place, options, map(_item_of, more_emas))


class _Latest(NamedTuple):
  """Keeps the newest checkpoint, and the latest others at multiples of `every`."""

  number: int
  every: int

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [x.step for x in checkpoints]
    regular = [step for step in reversed(steps[:-1]) if step % self.every == 0]
    kept = {*steps[-1:], *regular[: self.number - 1]}
    return [step in kept for step in steps]


class _Best(NamedTuple):
  """Keeps the checkpoints with the lowest CRITERION; of equal ones the later."""

  number: int

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    measured = [x for x in reversed(checkpoints) if x.metrics is not None]
    kept = {x.step for x in sorted(measured, key=lambda x: _metric(x.metrics))[: self.number]}
    return [x.step in kept for x in checkpoints]


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  config: dict,
  metrics: dict[str, float] | None = None,
  log: Json | None = None,
) -> None:
  """Starts saving `state` under its step, unless this step exists already.

  config, log: plain dicts, stored as JSON; metrics: with CRITERION, by which the
  best are kept. Raises OSError if this or the previous checkpoint cannot be written;
  `finish` waits for it.
  """
  step = int(state.step)
  with _writing(manager):
    _save(manager, step, _split(state), {'config': config, 'log': log or {}}, metrics)


def check_written(manager: ocp.CheckpointManager) -> None:
  """Raises OSError if the last save failed; does not wait for a running one."""
  run_folder.check_copying()
  if not manager.is_saving_in_progress():
    with _writing(manager):
      manager.wait_until_finished()


def finish(manager: ocp.CheckpointManager) -> None:
  """Waits until all is written, and closes; raises OSError on failure."""
  with _writing(manager):
    manager.close()


def save_params(
  workdir: Folder, step: int, params: Params, config: dict, which: Iterable[str] = (AVERAGE,)
) -> None:
  """Saves only parameters, by default as a run's averaged ones, and waits.

  which: what they are saved as, AVERAGE or RAW. Does nothing if the step exists
  already.
  """
  place = run_folder.of_checkpoints(_folder(workdir))
  options = ocp.CheckpointManagerOptions(
    cleanup_tmp_directories=True, async_options=_with_sums(place)
  )
  # Limit of the memory for writing, which must exceed the largest leaf.
  sizes = [x.nbytes for x in jax.tree.leaves(params)]
  limit = max(*sizes, sum(sizes) // 16) + 2**23
  with _open(place, options, write_gb=limit / 1e9) as manager:
    # Orbax writes copies of NumPy arrays; several hosts have the same arrays.
    place = jax.device_put if jax.process_count() == 1 else np.asarray
    arrays = jax.tree.map(place, params)
    _save(manager, step, {_ITEM_OF[name]: arrays for name in which}, {'config': config})


def _save(manager, step, trees, texts, metrics=None):
  if step in manager.all_steps():
    return
  items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
  items |= {name: ocp.args.JsonSave(content) for name, content in texts.items()}
  args = ocp.args.Composite(**items)
  manager.save(step, args=args, metrics=metrics, force=True)


def restore_latest(manager: ocp.CheckpointManager, target: TrainState) -> TrainState | None:
  """Returns the newest state, or None without checkpoints.

  target: the abstract state (`jax.ShapeDtypeStruct`s with shardings), or a
  state. Raises ValueError if the checkpoint cannot be read, or if it is of
  another network, with the name of the first parameter that does not fit.
  """
  step = manager.latest_step()
  if step is None:
    return None
  with _reading(manager, step):
    metadata = manager.item_metadata(step)
  targets = _split(target)
  for name, tree in targets.items():
    kind = 'optimizer' if name == 'state' else 'network'
    if name not in metadata:
      raise ValueError(
        f'checkpoint {step} has no {name}: to continue, set the EMA rates of '
        'this run; to train from weights only, use another --workdir with '
        '--config.training.start.run=<this one>'
      )
    check_fits(metadata[name].tree, tree, f'checkpoint {step} is of another {kind}')
  items = {name: _to_restore(tree) for name, tree in targets.items()}
  with _reading(manager, step):
    restored = manager.restore(step, args=ocp.args.Composite(**items))
  return restored['state']._replace(
    params=restored['params'],
    ema_params=restored['ema_params'],
    more_ema_params={name: restored[_item_of(name)] for name in target.more_ema_params},
  )


def restore_log(manager: ocp.CheckpointManager) -> Json:
  """Returns the `log` of the newest checkpoint; {} without checkpoints."""
  step = manager.latest_step()
  if step is None:
    return {}
  with _reading(manager, step):
    return manager.restore(step, args=ocp.args.Composite(log=ocp.args.JsonRestore()))['log']


def find_step(workdir: Path, step: int | str) -> int:
  """Returns the step of a checkpoint: a step, 'latest' or 'best'."""

  def find():
    with _open_read_only(workdir) as manager:
      return _find_step(manager, step, workdir)

  return run_folder.while_trained(workdir, lambda: _steps_in(workdir), find)


def read(workdir: Path, which: str, step: int | str) -> tuple[Params, dict, int]:
  """Returns (params, config, step) of a checkpoint, on one device; see `load`.

  If a training removes the checkpoint meanwhile, the newest or the best is taken again.
  """
  return run_folder.while_trained(
    workdir, lambda: _steps_in(workdir), lambda: _read(workdir, which, step)
  )


def _steps_in(workdir):
  return checksums.steps_in(workdir / 'checkpoints')


def _read(workdir, which, step):
  item = _item_of(which)
  with _open_read_only(workdir) as manager:
    step = _find_step(manager, step, workdir)
    checksums.check(Path(manager.directory), step)
    with _reading(manager, step):
      metadata = manager.item_metadata(step)
    if item not in metadata:
      prefix = _item_of('')
      names = (n.removeprefix(prefix) for n in metadata if n.startswith(prefix))
      raise FileNotFoundError(
        f'{workdir} has no average {which!r} of the parameters, but '
        f'{", ".join(names) or "its own only"}'
      )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    items = {item: _to_restore(metadata[item].tree, device)}
    args = ocp.args.Composite(config=ocp.args.JsonRestore(), **items)
    with _reading(manager, step):
      restored = manager.restore(step, args=args)
  return restored[item], restored['config'], step


def _open_read_only(workdir):
  folder = _folder(workdir)
  if not checksums.steps_in(folder):
    raise FileNotFoundError(
      f'{workdir} contains no checkpoint: train first, or give the --workdir of a run'
    )
  # Each process reads without the others: a report is written by the first process
  # only, and would wait for the others without end.
  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(index, {index}, f'process_{index}')
  options = ocp.CheckpointManagerOptions(
    read_only=True,
    create=False,
    lightweight_initialize=True,  # does not read metrics, which may be damaged
    multiprocessing_options=alone,
  )
  return _open(folder, options)


def _find_step(manager: ocp.CheckpointManager, step: int | str, workdir: Path) -> int:
  steps = sorted(manager.all_steps())
  if step == 'latest' and steps:
    return checksums.latest(Path(manager.directory), steps)
  if step == 'best' and steps:
    losses = {n: loss for n in steps if (loss := _criterion(manager, n)) is not None}
    if not losses:
      raise FileNotFoundError(
        f'no checkpoint in {workdir} has a metric: train with '
        '--config.training.checkpoints.best.number=1'
      )
    return min(losses, key=lambda step: losses[step])
  if not isinstance(step, int) or step not in steps:
    raise FileNotFoundError(
      f'{workdir} contains no checkpoint {step} but {", ".join(map(str, steps))}'
    )
  return step


def check_fits(theirs: Params, ours: Params, what: str) -> None:
  """Raises ValueError('<what>: ...') for the first leaf whose shape differs."""
  there, here = ({n: list(x.shape) for n, x in by_name(tree).items()} for tree in (theirs, ours))
  for path in sorted(there | here):
    if there.get(path) != here.get(path):
      raise ValueError(
        f'{what}: {path} is {there.get(path, "missing")} there, {here.get(path, "missing")} here'
      )


def by_name(tree: Params) -> dict[str, Any]:
  """Returns the leaves of a tree by the names along their paths.

  Orbax's metadata have lists and dicts for tuples and NamedTuples, and None for
  empty ones, so no more of a path can be compared.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def _to_restore(tree, sharding=None):
  def abstract(x):
    place = sharding or x.sharding
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  return ocp.args.StandardRestore(jax.tree.map(abstract, tree))


def _item_of(which):
  return _ITEM_OF.get(which, f'ema_params_{which}')


def _split(state):
  # Returns the items of a checkpoint of the state.
  items = {'ema_params': state.ema_params, 'params': state.params}
  items['state'] = state._replace(params=(), ema_params=(), more_ema_params=())
  return items | {_item_of(n): x for n, x in state.more_ema_params.items()}


def _metric(metrics):
  value = metrics.get(CRITERION)
  return value if isinstance(value, (int, float)) else float('inf')


def _folder(workdir):
  folder = Path(workdir).absolute() / 'checkpoints'
  check_files(folder)  # Orbax opens anything.
  return folder


def _with_sums(folder):
  def write_sums():  # writes the sums of the checkpoint that is being written
    drafts = folder.glob(f'*{ocp.path.atomicity_types.TMP_DIR_SUFFIX}*')
    checksums.write(max(drafts, key=os.path.getmtime))  # Others may be leftovers.

  # Process 0 calls it after all have written, and before the folder is renamed.
  # A bucket has sums of its own.
  callback = write_sums if isinstance(folder, Path) else None
  return ocp.options.AsyncOptions(post_finalization_callback=callback)


def _reading(manager, step):
  def reason(error):
    return f'{_brief(error)}. Move it away to continue from an older one'

  return naming(f'checkpoint {step} in {manager.directory} cannot be read', reason)


@contextlib.contextmanager
def _writing(manager):
  try:
    yield
  except Exception as error:  # ValueError, when the disk is full
    if fills_device(error):
      raise
    last = manager.latest_step()
    kept = 'there is none yet' if last is None else f'{last} is the last one'
    raise OSError(
      f'a checkpoint could not be written in {manager.directory}, {kept}: {_brief(error)}'
    ) from error


def _brief(error):
  # Returns the reason: tensorstore adds paths to it, and Orbax whole trees.
  code = re.search(r"os_error_code='(\d+)'", f'{error} {error.__cause__}')
  return os.strerror(int(code[1])) if code else reason_of(error)[:300]


def _criterion(manager, step):
  # Returns the criterion of a checkpoint, or None if it was saved without.
  folder = Path(manager.directory) / str(step) / 'metrics'
  if not folder.is_dir():
    return None
  checksums.check(Path(manager.directory), step, ['metrics'])
  return _metric(read_json(folder / 'metrics'))


def _open(folder, options, more_items=(), write_gb=96):
  # Orbax must know all items in advance, also the items of older steps.
  older = (path.name for path in folder.glob(f'*/{_item_of("*")}'))
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  for name in {*_ITEM_OF.values(), 'state', *more_items, *older}:
    arrays = ocp.StandardCheckpointHandler(save_concurrent_gb=write_gb)
    registry.add(name, ocp.args.StandardSave, arrays)
    registry.add(name, ocp.args.StandardRestore, arrays)
  for name in ('config', 'log'):
    texts = ocp.JsonCheckpointHandler()
    registry.add(name, ocp.args.JsonSave, texts)
    registry.add(name, ocp.args.JsonRestore, texts)
  return ocp.CheckpointManager(folder, options=options, handler_registry=registry)
