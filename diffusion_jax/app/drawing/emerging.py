"""Images that are drawn one step at a time, and shown while they emerge."""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.app import devices, models
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.drawing import sheets
from diffusion_jax.app.drawing.generate import check_plan
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Model
from diffusion_jax.app.run import other_runs, weights
from diffusion_jax.core.keys import as_one_key, fold_each
from diffusion_jax.runtime.compiling import program
from diffusion_jax.runtime.sharding import replicate, replicated
from diffusion_jax.sampling.sampler import spread_levels

# The fields of config.sampling that are arguments of the compiled programs.
ARGUMENTS = (
  'labels', 'prompt', 'context', 'context_row', 'seed', 'num_steps',
  'respacing', 'guidance.scale', 'guidance_scale',
)  # fmt: skip
NUM_FRAMES = 12


class Frame(NamedTuple):
  """The sheet of images, uint8 [H, W, C], after `step` of `total` steps.

  sheet: None after a step that is not shown; compiles: whether the next step
  must be compiled first.
  """

  step: int
  total: int
  sheet: np.ndarray | None = None
  compiles: bool = False


Emerge = Callable[[store.Flags], Iterator[Frame]]


def emerging(config: Node, workdir: str | Path) -> tuple[Model, Emerge]:
  """Returns the model of a run, and flags -> the images, while they emerge.

  Image i of a seed equals image i of --mode=sample, to rounding. A program of
  one step serves any number of steps and any value of `ARGUMENTS`; another
  sampler is another program. Several threads may draw at once: they take turns
  after each step. UserError for flags that do not fit.
  """
  model = models.make(config, workdir)
  run = weights.opened(model, 'sample', other_runs.guides_of)
  mesh, guides, params = run.mesh, run.inputs, run.on_devices()
  others = replicate(mesh, {name: run.params for name, run in guides.items()})
  count = -(-config.serve.num_images // mesh.size) * mesh.size
  how, lock, kept = devices.effort(config), threading.Lock(), {}
  data = sheets.examples(model)
  ready: set[str] = set()  # the keys of compiled programs

  def kept_programs(model):
    # One at a time: programs are made of the first model that needs them.
    with lock:
      key = key_of(model.config)
      if key not in kept:
        of = functools.partial(program, mesh=mesh, effort=how)
        kept[key] = (
          of('the sampler', step_of(model, guides)),
          of('the decoder', model.latents.decoded),
        )
      return kept[key]

  def emerge(flags):
    model = models.make(store.with_flags(config, flags, trusted=False), workdir)
    model.check('sample')
    check_plan(model)
    cond = conditions.choose(model, count, mesh).cond
    step, decode = kept_programs(model)
    key = key_of(model.config)
    with lock:
      keys = fold_each(model.root(), np.arange(count))
    if model.plan is None:
      assert model.draw is not None
      yield Frame(0, 1, compiles=key not in ready)
      with lock:
        x = jax.device_get(step.call((params, others), keys, cond))
      ready.add(key)
      yield Frame(1, 1, sheets.of_images(model, x, data=data))
      return
    plan, c = model.plan(params, guides), model.config.sampling
    levels = jax.device_get(plan.levels)
    total = len(levels.t) - 1
    with lock:
      x, keys = plan.begin(keys)
      keys = plan.sampler.keys(as_one_key(keys), total)
      start = x, plan.sampler.init(x), keys
      x, state, keys = jax.device_put(start, replicated(mesh))
    scale = np.float32(scale_of(c))
    shown = {*spread_levels(total, NUM_FRAMES).tolist()}
    yield Frame(0, total, compiles=key not in ready)
    for i in range(total + 1):
      with lock:
        if i:
          ends = levels.take(i - 1), levels.take(i)
          args = keys[i - 1], x, state, cond, scale, ends
          x, state = jax.block_until_ready(step.call((params, others), *args))
          ready.add(key)
        if i in shown:
          images = jax.device_get(decode.call(params, x))
      # A drawing that nobody waits for ends here, after any step.
      sheet = None
      if i in shown:
        sheet = sheets.of_images(model, images, data=data)
      yield Frame(i, total, sheet, compiles=not i and key not in ready)

  return model, emerge


def step_of(model: Model, guides: other_runs.Guides) -> Callable:
  """Returns the function of one step, or of all for a model without steps."""

  def runs_of(others):
    return {n: g._replace(params=others[n]) for n, g in guides.items()}

  def step(both, keys, x, state, cond, scale, ends):
    params, others = both
    assert model.plan is not None
    plan = model.plan(params, runs_of(others))
    step_function = plan.step_function(cond, scale=scale)
    ends = {'level_t': ends[0], 'level_s': ends[1]}
    return plan.sampler.step(keys, x, state, step_function, **ends)

  def whole(both, keys, cond):
    params, others = both
    assert model.draw is not None
    return model.draw(params, runs_of(others), keys, cond)[0]

  return whole if model.plan is None else step


def key_of(config: Node) -> str:
  """Returns what a program of config.sampling is compiled for."""
  section = folder.flat(folder.plain(config)['sampling'])
  fixed = {n: x for n, x in section.items() if n not in ARGUMENTS}
  if config.sampling.get('churn'):  # its noise depends on the number of steps
    fixed['num_steps'] = section['num_steps']
  return json.dumps(fixed, sort_keys=True)


def scale_of(c: Node) -> float:
  """Returns the scale of the guidance of config.sampling; 1 without it."""
  guidance = c.get('guidance')
  return c.get('guidance_scale', 1.0) if guidance is None else guidance.scale
