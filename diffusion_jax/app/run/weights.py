"""The parameters of a run that config.sampling chooses."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.app import devices, models
from diffusion_jax.app.config import folder
from diffusion_jax.app.model import Model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training import power_ema
from diffusion_jax.weights import adapters, averages, checkpoints, load, share
from diffusion_jax.weights.checkpoints import AVERAGE, RAW


class Run(NamedTuple):
  """A run that a mode uses: its model, its weights, and what the user gives.

  params: the parameters that config.sampling chooses; step: their checkpoint.
  """

  model: Model
  params: Params
  step: int
  inputs: Any
  mesh: Mesh

  def on_devices(self) -> Params:
    """Returns all parameters, an autoencoder's too, on the mesh."""
    loaded = self.model.autoencoder.load()
    return replicate(self.mesh, self.params | loaded)


def open_run(model: Model, mode: str, inputs: Callable[[Model], Any] = lambda model: None) -> Run:
  """Checks a mode's config and inputs, and then reads the weights.

  inputs: model -> what the user gives, or UserError.
  """
  model.check(mode)
  given, mesh = inputs(model), devices.make_mesh(model.config)
  return Run(model, *restore(model), given, mesh)


def restore(model: Model, merge: bool = True) -> tuple[Params, int]:
  """Restores (the parameters that config.sampling chooses, their step).

  merge: False returns a run's adapters as they are.
  """
  c, workdir = model.config.sampling, model.workdir
  decay = power_ema.decay_name(c.ema_decay) if c.ema_decay else AVERAGE
  step = int(c.checkpoint) if c.checkpoint.isdecimal() else c.checkpoint
  try:
    if c.ema_sigma_rel is not None and merge:
      return _restore_average(model, step)
    stored = load.open(workdir, decay if c.ema else RAW, step, merge=merge)
    # Tracing the network takes seconds: not for the config that was trained,
    # unless the network is the user's own, whose code may have changed.
    now = folder.stored_form(model.config, model.facts)
    own = ':' in model.config.network.name
    # The files of a shared folder and base weights may be of other models.
    own = own or share.exist(workdir) or adapters.path_of(workdir).exists()
    if merge and (own or folder.differences(stored.config, now, folder.FREE)):
      what = f'checkpoint {stored.step} is of another network'
      checkpoints.check_fits(stored.params, models.shapes(model), what)
    return stored.params, stored.step
  except (FileNotFoundError, ValueError) as error:
    raise UserError(str(error)) from error


def _restore_average(model, step):
  c, workdir = model.config.sampling, model.workdir
  if c.ema_decay or not c.ema:
    other = f'ema_decay={c.ema_decay}' if c.ema_decay else 'ema=False'
    raise UserError(
      f'config.sampling.ema_sigma_rel={c.ema_sigma_rel} and '
      f'config.sampling.{other} are different weights: give one of them'
    )
  if step == 'best':
    step = load.find_step(workdir, step)
  snapshot = None if step == 'latest' else step
  average = averages.make(workdir, c.ema_sigma_rel, snapshot, models.shapes(model))
  print(average.describe())
  return average.params, average.step
