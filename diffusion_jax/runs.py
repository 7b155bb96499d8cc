"""Opens trained runs in notebooks and scripts; imports the application late."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_jax.core.checked import checked
from diffusion_jax.errors import importing_program

if TYPE_CHECKING:
  from jax.sharding import Mesh
  from jax.stages import Wrapped

  from diffusion_jax.app.run.notebook import TrainedRun


@checked
def open_run(
  workdir: str | Path, allow: str | Sequence[str] = (), **sampling: object
) -> 'TrainedRun':
  """Opens a trained run: its denoiser, sampler, units, and samples.

  allow: module:attribute and paths that its config may name (docs/running.md);
  sampling: fields of config.sampling, such as num_steps=20. Raises
  diffusion_jax.errors.UserError.
  """
  with importing_program():
    from diffusion_jax.app.run import notebook
  return notebook.open_run(workdir, allow, sampling)


@checked
def training_step(
  config: str | Path, fields: Mapping[str, object] | None = None, mesh: 'Mesh | None' = None
) -> 'tuple[Wrapped, tuple]':
  """Returns a config's jitted training step and the shapes of its arguments, without data.

  config: a file, or file.py:variant; fields: changes such as
  {'training.batch_size': 512}; mesh: of (data, fsdp), also of devices that are
  not here, by default `training.machine.mesh` of all devices. `step.lower(*shapes)` lowers
  it; the metrics that it returns are [] float32. Raises diffusion_jax.errors.UserError.
  """
  with importing_program():
    from diffusion_jax.app.run import notebook
  return notebook.training_step(config, fields or {}, mesh)
