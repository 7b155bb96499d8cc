"""A trained run as an object, for notebooks and scripts: `dj.open_run`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from diffusion_jax.aliases import Params
from diffusion_jax.app.config import folder, store, trust
from diffusion_jax.app.drawing.generate import check_numbers, generate, in_box
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Model
from diffusion_jax.app.run import other_runs
from diffusion_jax.app.run.weights import Run
from diffusion_jax.app.sampling_plan import Plan
from diffusion_jax.data.sources import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import buckets
from diffusion_jax.runtime.per_example import PerExample, rows


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
  """The parts of a trained run, as its config.sampling chooses them.

  schedule, levels [N + 1] and sampler: with `denoiser` what `dj.sample` takes;
  None for a VAE. facts: what the data are; shape: of what is diffused, without
  its batch. A condition is label, text, context or image, and is in the data's
  units, but for image.
  """

  schedule: Any
  levels: Any
  sampler: Any
  facts: Facts
  shape: tuple[int, ...]
  params: Params
  model: Model
  _plan: Plan | None
  _drawing: Callable[[int], PerExample]

  def denoiser(self, **given: Any) -> Callable:
    """Returns the denoiser for conditions [B, ...], guided and clipped.

    It is what `dj.sample` calls: of states a `StateDenoiser`, of a flow map a
    `FlowMap`, with self-conditioning a function x_0 -> denoiser, with some
    guidance a `PairedDenoiser`. Raises UserError if the model has none.
    """
    if self._plan is None:
      raise UserError(
        f'{self.model.workdir} holds {self.model.schema.kind}, which has no '
        'denoiser: `draw` draws from it'
      )
    n = max((len(np.atleast_1d(x)) for x in given.values()), default=1)
    return self._plan.step_function(conditions.given(self.model, n, given).cond)

  def encode(self, x: np.ndarray) -> jax.Array:
    """Returns data [B, ...] as they are diffused; pictures are uint8."""
    x = self.facts.x.written.encode(np.asarray(x))
    return self.model.latents.encode(self.params.get('autoencoder'), x)

  def decode(self, z: jax.Array) -> np.ndarray:
    """Returns what is diffused, [B, *shape], in the data's units."""
    x = self.model.latents.decoded(self.params, z)
    return self.facts.x.decode(np.asarray(x))

  def draw(self, n: int, first: int = 0, **given: Any) -> np.ndarray:
    """Returns samples first .. first + n - 1 of the seed, in the data's units.

    They equal the samples of --mode=sample. Conditions are taken in turn.
    """
    model, end = self.model, first + n
    if given:
      inputs = conditions.given(model, end, given)
    else:
      inputs = conditions.choose(model, end)
    conditions.note_equal_starts(model, inputs, first)
    inputs = conditions.encoded(model, self.params, inputs)
    size = min(n, model.config.sampling.batch_size)
    drawing, parts = self._drawing(size), []
    for index in np.split(np.arange(first, end), range(size, n, size)):
      x, _ = drawing(self.params, index, rows(inputs.cond, index))
      check_numbers(model, x)
      parts.append(in_box(model, inputs, drawing, self.params, index, x)[0])
    return np.concatenate(parts)


def open_run(workdir: str | Path, allow: Sequence[str], sampling: dict[str, object]) -> TrainedRun:
  """Opens the run in a folder; see `diffusion_jax.open_run`."""
  logging.set_verbosity(logging.FATAL)  # Orbax, as on the command line
  path = buckets.folder(workdir).expanduser()
  trust.allow([*allow, *map(str, sampling.values())])
  flags = [(f'sampling.{n}', store.as_text(x)) for n, x in sampling.items()]
  config = store.of_run(path, store.open_run(path), flags)
  folder.check_predecessors(config, 'sample', path)
  run = Run.open(config, path)
  run.check('sample')
  model, params, mesh = run.model, run.on_devices, run.mesh
  plan = model.plan and model.plan(params, other_runs.guides_of(model))
  schedule, levels, sampler, *_ = plan or (None,) * 3
  drawing = functools.cache(lambda size: generate(model, mesh, size))
  what = model.facts, model.state_shape, params, model
  return TrainedRun(schedule, levels, sampler, *what, plan, drawing)
