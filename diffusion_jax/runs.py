"""Opens trained runs in notebooks and scripts; imports the application late."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from diffusion_jax.app.notebook import TrainedRun


def open_run(workdir: str | Path, allow: Sequence[str] = (), **sampling: object) -> 'TrainedRun':
  """Opens a trained run: its denoiser, sampler, units, and samples.

  allow: module:attribute and paths that its config may name (docs/running.md);
  sampling: fields of config.sampling, such as num_steps=20. Raises
  diffusion_jax.errors.UserError.
  """
  from diffusion_jax.app import notebook

  return notebook.open_run(workdir, allow, sampling)
