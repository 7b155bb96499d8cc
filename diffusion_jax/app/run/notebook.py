"""A trained run as an object, for notebooks and scripts: `dj.open_run`."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jax.stages import Wrapped

from diffusion_jax.aliases import Params
from diffusion_jax.app import modes, smoke
from diffusion_jax.app.config import overrides
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import other_runs, roles, store
from diffusion_jax.app.kinds.model import Model, make_mesh
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.app.run.drawing import check_numbers, generate, in_box
from diffusion_jax.app.run.weights import Run
from diffusion_jax.app.train import setup
from diffusion_jax.data import tables
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.errors import UserError
from diffusion_jax.paths import is_address
from diffusion_jax.ranges import Count, Rows, check_value
from diffusion_jax.runtime.per_example import PerExample, rows
from diffusion_jax.runtime.run_folder import RunFolder


@contextlib.contextmanager
def _in_python():
  # Errors name arguments of Python instead of flags.
  try:
    yield
  except (UserError, ValueError) as error:
    text = re.sub("add --allow='?(.*?)'? to the command", r"pass allow=['\1']", str(error))
    text = re.sub(r'(--)?config\.sampling\.', '', text.replace('--workdir', 'folder'))
    raise UserError(text) from error


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
  """The parts of a trained run, as its config.sampling chooses them.

  schedule, levels [N + 1] and sampler: with `denoiser` what `dj.sample` takes;
  None for a VAE. facts: what the data are; shape: of what is diffused, without
  its batch. A condition is named label, text, context or image, and all but an image
  are in the data's units.
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

  @_in_python()
  def denoiser(self, **given: Any) -> Callable:
    """Returns the denoiser for conditions [B, ...], guided and clipped.

    It is what `dj.sample` calls: of states a `StateDenoiser`, of a flow map a
    `FlowMap`, with self-conditioning a function x_0 -> denoiser, with some
    guidance a `PairedDenoiser`. Raises UserError for a model without a denoiser.
    """
    if self._plan is None:
      raise UserError(
        f'{self.model.run} holds {self.model.schema.kind}, which has no '
        'denoiser: `draw` draws from it'
      )
    return self._plan.step_function(conditions.given(self.model, None, given).cond)

  @_in_python()
  def encode(self, x: Any) -> jax.Array:
    """Returns data [B, ...] as they are diffused; pictures are uint8."""
    spec = self.facts.x.written
    x = tables.rows_of(x, spec, 'x')
    last = max(0, spec.levels - 1)
    if not np.isfinite(x).all() or spec.levels and (x != np.clip(np.rint(x), 0, last)).any():
      raise ValueError(f'x must be {f"integers in 0..{last}" if last else "finite numbers"}')
    return self.model.latents.encode(self.params.get('autoencoder'), spec.encode(x))

  @_in_python()
  def decode(self, z: jax.Array) -> np.ndarray:
    """Returns what is diffused, [B, *shape], in the data's units."""
    check_numbers(self.model, tables.rows_of(z, ArraySpec(self.shape), 'z'))
    x = self.model.latents.decoded(self.params, jnp.reshape(np.asarray(z), (-1, *self.shape)))
    return self.facts.x.decode(np.asarray(x))

  def draw(self, n: int, first: int = 0, **given: Any) -> np.ndarray:
    """Returns samples first .. first + n - 1 of the seed, in the data's units.

    They equal the samples of --mode=sample. Conditions are taken in turn; a
    context may be a dict or a data frame with the columns of a table.
    """
    return self.draw_all(n, first, **given)['x']

  @_in_python()
  def draw_all(self, n: int, first: int = 0, **given: Any) -> dict[str, np.ndarray]:
    """Returns what `draw` does as 'x', and what is drawn with it, such as its 'labels'."""
    n, first = (np.asarray(x).tolist() for x in (n, first))  # integers may be NumPy's or JAX's
    check_value('n', n, Rows)
    check_value('first', first, Count)
    check_value('first + n', end := first + n, Rows)
    model = self.model
    if given:
      inputs = conditions.given(model, end, given)
    else:
      inputs = conditions.choose(model, end)
    conditions.note_equal_starts(model, inputs, first)
    inputs = conditions.encoded(model, self.params, inputs)
    size = min(n, model.config.sampling.batch_size)
    drawing, parts = self._drawing(size), []
    more: dict[str, list] = {name: [] for name in model.draws}
    for index in np.split(np.arange(first, end), range(size, n, size)):
      x, _, others = drawing(self.params, index, rows(inputs.cond, index))
      check_numbers(model, x)
      for name, arrays in more.items():
        arrays.append(others[name])
      parts.append(in_box(model, inputs, drawing, self.params, index, x)[0])
    return {n: np.concatenate(arrays) for n, arrays in {'x': parts, **more}.items()}


@_in_python()
def open_run(
  workdir: str | Path, allow: str | Sequence[str], sampling: dict[str, object]
) -> TrainedRun:
  """Opens the run in a folder; see `diffusion_jax.open_run`."""
  logging.set_verbosity(logging.FATAL)  # Orbax, as on the command line
  if not isinstance(workdir, str | os.PathLike) or not str(workdir):
    raise UserError(f'open_run({workdir!r}): give the folder of a run, as "runs/digits"')
  place = workdir if is_address(workdir) else Path(workdir).expanduser()
  folder = RunFolder.at(place, written=False)
  names = [allow] if isinstance(allow, str) else [*map(str, allow or ())]
  flags = overrides.as_flags(sampling, 'sampling')
  store.allow(names, flags)
  config = store.of_run(folder, None, flags)
  roles.check_predecessors(config, 'sample', folder)
  modes.find('sample').check_trust(config)
  run = Run.open(config, folder)
  run.check('sample')
  model, params, mesh = run.model, run.on_devices, run.mesh
  guides = other_runs.guides_of(model)
  plan = model.noisy and model.plan and model.plan(params, guides)
  schedule, levels, sampler, *_ = plan or (None,) * 3
  drawing = functools.cache(lambda size: generate(model, mesh, size))
  return TrainedRun(
    schedule,
    levels,
    sampler,
    facts=model.facts,
    shape=model.state_shape,
    params=params,
    model=model,
    _plan=plan,
    _drawing=drawing,
  )


def training_step(
  config: str | Path, fields: Mapping[str, object], mesh: Mesh | None
) -> tuple[Wrapped, tuple]:
  """Returns a training step and its shapes; see `diffusion_jax.training_step`."""
  path, _, variant = str(config).partition(':')
  if not Path(path).is_file():
    raise UserError(f'the config file {path} does not exist')
  flags = overrides.as_flags(fields)
  node = store.with_flags(smoke.described(path, variant, flags), flags)
  return setup.abstract_step(node, mesh or make_mesh(node), RunFolder.at('', written=False))
