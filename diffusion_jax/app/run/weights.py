"""The model of a run, the parameters that config.sampling chooses, adapters."""

import dataclasses
import functools
import pkgutil
from collections.abc import Collection
from typing import Self

import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import other_runs, roles, schemas
from diffusion_jax.app.kinds.model import Frozen, Model, make_mesh
from diffusion_jax.app.run.drawing import training_examples
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.runtime import processes, run_folder
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training import lora, power_ema
from diffusion_jax.weights import averages, checkpoints, load
from diffusion_jax.weights.checkpoints import AVERAGE, RAW, check_fits


def make_model(
  config: Node,
  run: RunFolder,
  facts: Facts | None = None,
  workdir: RunFolder | None = None,
) -> Model:
  """Returns the model of a complete config; its objective decides the kind.

  run: the run that is read; facts: the facts of the images; None: read from the data;
  workdir: the folder that is written, by default that of the run.
  """
  workdir = workdir or run
  config = datasets.of_run(config, run, workdir)
  facts = datasets.facts_of(config) if facts is None else facts
  config = datasets.with_conditions(config, facts)
  kind = next(x for x in schemas.MODULES if x.SCHEMA.kind == config.schema.kind)
  maker = pkgutil.resolve_name(f'{kind.__name__}.model:make')
  model = maker(config, run, facts)
  return dataclasses.replace(model, workdir=workdir)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A trained run: its model, and its weights, which are read when needed.

  The model has the config, the run folder and the facts. given: the fields that the
  command line sets.
  """

  model: Model
  given: Collection[str] = ()

  @classmethod
  def open(
    cls,
    config: Node,
    run: RunFolder,
    facts: Facts | None = None,
    given: Collection[str] = (),
    workdir: RunFolder | None = None,
  ) -> Self:
    """Returns the run of a folder; see `make_model`."""
    return cls(make_model(config, run, facts, workdir), given)

  def changed(self, config: Node) -> Self:
    """Returns the run with another config of how it is used."""
    return self.open(config, self.model.run, self.model.facts, workdir=self.model.workdir)

  def check(self, mode: str) -> None:
    """Raises UserError for a config that the model, mode or devices cannot use."""
    self.model.check(mode)
    make_mesh(self.model.config)

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh of training.machine.mesh."""
    return make_mesh(self.model.config)

  @functools.cached_property
  def checkpoint(self) -> tuple[Params, int]:
    """(The parameters that config.sampling chooses, their step)."""
    return restore(self.model)

  @functools.cached_property
  def examples(self) -> np.ndarray | None:
    """The training examples that are drawn behind samples, if any."""
    return training_examples(self.model)

  @functools.cached_property
  def on_devices(self) -> Params:
    """All parameters, an autoencoder's too, on the mesh."""
    params, _ = self.checkpoint
    return replicate(self.mesh, params | self.model.autoencoder.load())


def restore(model: Model, merge: bool = True) -> tuple[Params, int]:
  """Restores (the parameters that config.sampling chooses, their step).

  merge: False returns a run's adapters as they are.
  """
  c = model.config.sampling
  decay = c.weights.get('decay')
  which = RAW if c.weights.name == 'raw' else power_ema.decay_name(decay) if decay else AVERAGE
  step = int(c.checkpoint) if c.checkpoint.isdecimal() else c.checkpoint
  with as_user_error():
    if c.weights.name == 'width' and merge:
      return _restore_average(model, step)
    stored = load.open(model.run, which, step, merge=merge)
    check_config(model, stored)
    # Tracing the network takes seconds: not for the config that was trained,
    # unless the network is the user's own, whose code may have changed.
    now = folder.stored_form(model.config, model.facts)
    own = ':' in model.config.network.name
    # The files of a shared folder and base weights may be of other models.
    own = own or model.run.is_shared or load.base_path(model.run).exists()
    if merge and (own or folder.differences(stored.config, now, roles.FREE)):
      what = f'checkpoint {stored.step} is of another network'
      checkpoints.check_fits(stored.params, model.shapes(), what)
    return stored.params, stored.step


# Sections that the weights of a checkpoint were trained by, but are not read with.
_OF_TRAINING = 'data.', 'optimizer.', 'training.'


def check_config(model: Model, stored: load.Stored) -> None:
  """Raises UserError for a checkpoint of before training.resume=force changed the model."""
  free = *roles.FREE, *_OF_TRAINING
  if changed := folder.other_than_saved(model.run, stored.config, free, 'in the checkpoint'):
    raise UserError(
      f'checkpoint {stored.step} in {model.run} is of another config than config.json: {changed}. '
      'Take a later checkpoint'
    )


def _restore_average(model, step):
  width, path = model.config.sampling.weights.sigma_rel, model.run.path
  if step == 'best':
    step = checkpoints.find_step(path, step)
  snapshot = None if step == 'latest' else step
  average = averages.make(path, width, snapshot, model.shapes())
  print(average.describe())
  return average.params, average.step


def adapted(model: Model) -> Model:
  """Returns the model whose parameters are adapters, for a training.

  It is the model itself without training.start=adapters. The first start copies the
  base, the averaged weights of training.start.run, into the run folder. Raises
  UserError for a network without kernels to adapt.
  """
  c = model.config.training.start
  if c is None or 'rank' not in c:
    return model
  scale = (c.alpha or c.rank) / c.rank
  shapes, teacher = model.shapes(), model.teacher

  def init(key):
    stacked = getattr(model.network(), 'stacked', None)
    with from_config('training.start'):
      found = lora.lora_init(key, shapes['network'], c.rank, c.convolutions, stacked)
    return {'network': found}

  def plan(params=None, guides=None):
    assert model.plan is not None
    if params and lora.BASE in params:
      rest = {n: x for n, x in params.items() if n != lora.BASE}
      params = rest | lora.merge_network(params[lora.BASE], params, scale)
    return model.plan(params, guides)

  def objective(test=False):
    return lora.lora_objective(model.objective(test), scale)

  def prepare(source, mesh):
    return teacher.prepare(source, mesh) | {lora.BASE: _base(model, scale)}

  def base_shapes():
    return {**teacher.shapes(), lora.BASE: shapes}

  return dataclasses.replace(
    model,
    plan=model.plan and plan,
    init=init,
    objective=objective,
    teacher=Frozen(prepare, base_shapes, teacher.load),
  )


def _base(model, scale):
  # Returns the base; the first start copies it into the run folder.
  workdir = model.workdir
  path = load.base_path(workdir)
  begun = path.exists() or folder.has_checkpoint(workdir)
  if not processes.broadcast([begun])[0]:
    field, run = 'training.start.run', model.config.training.start.run
    params = other_runs.open_weights(field, run, model.init).params
    if processes.is_first():
      load.write_base(workdir, params, scale)
    run_folder.share(path, 'the base')
  with from_config('training.start'):
    base, stored = load.read_base(workdir)
    check_fits(base, model.shapes(), f'{path} is of another network')
    if stored != scale:
      raise ValueError(f'alpha / rank is {scale:g}, and {stored:g} in {path}')
  return base
