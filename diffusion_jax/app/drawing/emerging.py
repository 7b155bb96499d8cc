"""Images that are drawn one step at a time, and shown while they emerge."""

import collections
import json
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.app.config import folder, store
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.drawing.generate import (
  FEW,
  check_plan,
  draw_sheet,
  in_box,
  training_examples,
)
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Model, effort
from diffusion_jax.app.run import other_runs
from diffusion_jax.app.run.weights import Run
from diffusion_jax.core.keys import as_one_key, fold_each
from diffusion_jax.runtime.compiling import Program, program
from diffusion_jax.runtime.per_example import rows
from diffusion_jax.runtime.sharding import replicate, replicated
from diffusion_jax.sampling.sampler import spread_levels, take_step

# The fields of config.sampling that are arguments of the compiled programs.
ARGUMENTS = (
  'labels',
  'prompt',
  'context',
  'context_row',
  'seed',
  'num_steps',
  'respacing',
  'guidance.scale',
  'guidance_scale',
)
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


def emerging(run: Run) -> Emerge:
  """Returns flags -> the images of a run, while they emerge.

  Image i of a seed equals image i of --mode=sample, to rounding. A program of
  one step serves any number of steps and any value of `ARGUMENTS`; another
  sampler is another program. Several threads may draw at once: they take turns
  after each step. UserError for flags that do not fit.
  """
  programs = _Programs(run)

  def emerge(flags):
    config = store.with_flags(run.model.config, flags, trusted=False)
    model = run.changed(config).model
    model.check('sample')
    check_plan(model)
    inputs = conditions.choose(model, programs.count)
    draw = _at_once if model.plan is None else _by_steps
    yield from draw(programs, model, inputs)

  return emerge


class _Programs:
  """The parameters of a run on its devices, and the programs that draw."""

  def __init__(self, run: Run):
    run.check('sample')
    model, guides = run.model, other_runs.guides_of(run.model)
    self.mesh, self.params = run.mesh, run.on_devices
    self.both = self.params, replicate(run.mesh, guides)
    size = run.mesh.size
    self.count = -(-model.config.serve.num_images // size) * size
    self._how = run.mesh, effort(model.config)
    self.data = training_examples(model)
    self.lock = threading.Lock()
    self.ready: set[str] = set()  # the keys of programs that are compiled
    self._kept: dict[str, tuple[Program, Program]] = {}

  def of(self, model: Model) -> tuple[Program, Program]:
    """Returns the programs of a step and of the decoder, once for each key."""
    key = key_of(model.config)
    with self.lock:
      if key not in self._kept:
        step = program('the sampler', step_of(model), *self._how)
        decoder = program('the decoder', model.latents.decoded, *self._how)
        self._kept[key] = step, decoder
      return self._kept[key]

  def last(self, model: Model, inputs: conditions.Conditions, draw, x):
    """Returns the sheet of the last x, drawn again outside data.bounds.

    draw: (index [count], cond) -> x [count, ...].
    """

    def again(params, index, cond):
      copies = np.arange(self.count) % len(index)
      return (draw(index[copies], rows(cond, copies))[: len(index)],)

    args = again, self.params, np.arange(self.count), x
    samples, _ = in_box(model, inputs, *args, attempts=FEW)
    return draw_sheet(model, samples, data=self.data)


def _at_once(programs, model, inputs):
  # Draws the images of a model without steps.
  step, _ = programs.of(model)
  key = key_of(model.config)
  yield Frame(0, 1, compiles=key not in programs.ready)

  def draw(index, cond):
    keys = fold_each(model.root(), index)
    with programs.lock:
      return jax.device_get(step.start(programs.both, keys, cond))

  x = draw(np.arange(programs.count), inputs.cond)
  yield Frame(1, 1, programs.last(model, inputs, draw, x))
  programs.ready.add(key)


def _by_steps(programs, model, inputs):
  # A drawing that nobody waits for ends after any step.
  step, decode = programs.of(model)
  key = key_of(model.config)
  plan, scale = model.plan(*programs.both), scale_of(model.config)
  levels = jax.device_get(plan.levels)
  total = len(levels.t) - 1

  def states(index, cond):
    # Yields x before the first step, and after each step.
    with programs.lock:
      x, keys = plan.begin(fold_each(model.root(), index))
      keys = plan.sampler.keys(as_one_key(keys), total)
      start = x, plan.sampler.init(x), keys
      x, state, keys = jax.device_put(start, replicated(programs.mesh))
    yield x
    for i in range(total):
      ends = levels.take(i), levels.take(i + 1)
      args = programs.both, keys[i], x, state, cond, scale, ends
      with programs.lock:
        x, state = jax.block_until_ready(step.start(*args))
      yield x

  def images(x):
    with programs.lock:
      return jax.device_get(decode.start(programs.params, x))

  def draw(index, cond):
    [last] = collections.deque(states(index, cond), maxlen=1)
    return images(last)

  shown = {*spread_levels(total, NUM_FRAMES).tolist()}
  yield Frame(0, total, compiles=key not in programs.ready)
  for i, x in enumerate(states(np.arange(programs.count), inputs.cond)):
    sheet = None
    if i:
      programs.ready.add(key)
    if i == total:
      sheet = programs.last(model, inputs, draw, images(x))
    elif i in shown:
      x = model.facts.x.decode(images(x))
      sheet = draw_sheet(model, x, data=programs.data)
    yield Frame(i, total, sheet, compiles=not i and key not in programs.ready)


def step_of(model: Model) -> Callable:
  """Returns the function of one step, or of all for a model without steps."""

  def step(both, keys, x, state, cond, scale, ends):
    assert model.plan is not None
    plan, (level_t, level_s) = model.plan(*both), ends
    args = plan.sampler, keys, x, state, plan.step_function(cond, scale=scale)
    return take_step(*args, level_s, level_t)

  def whole(both, keys, cond):
    assert model.draw is not None
    return model.draw(*both, keys, cond)[0]

  return whole if model.plan is None else step


def key_of(config: Node) -> str:
  """Returns what a program of config.sampling is compiled for."""
  section = folder.flat(folder.plain(config)['sampling'])
  fixed = {n: x for n, x in section.items() if n not in ARGUMENTS}
  if config.sampling.get('churn'):  # its noise depends on the number of steps
    fixed['num_steps'] = section['num_steps']
  return json.dumps(fixed, sort_keys=True)


def scale_of(config: Node) -> np.float32:
  """Returns the scale of the guidance of config.sampling; 1 without it."""
  c = config.sampling
  scale = c.get('guidance_scale', 1.0)
  return np.float32(c.guidance.scale if c.get('guidance') else scale)
