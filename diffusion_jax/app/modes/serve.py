"""Implements --mode=serve: opens a page of a run, on this machine only.

Its images are drawn one step at a time, and shown while they emerge.
"""

import collections
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.inputs.conditions import takes_labels
from diffusion_jax.app.inputs.datasets import text_length
from diffusion_jax.app.kinds import other_runs, store
from diffusion_jax.app.kinds.model import Model, effort
from diffusion_jax.app.kinds.rules import takes_pairs
from diffusion_jax.app.kinds.sampling import at_step
from diffusion_jax.app.run.drawing import FEW, check_numbers, check_plan, draw_sheet, in_box
from diffusion_jax.app.run.weights import Run
from diffusion_jax.core.keys import as_one_key, fold_each
from diffusion_jax.data.classes import word_for
from diffusion_jax.declared import declared_by
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import FlagText, Misfit, convert
from diffusion_jax.report.pictures import as_uri
from diffusion_jax.runtime.compiling import Effort, Program, program
from diffusion_jax.runtime.files import one_line
from diffusion_jax.runtime.per_example import rows
from diffusion_jax.runtime.sharding import replicate, replicated
from diffusion_jax.sampling.sampler import spread_levels, take_step

HOST = '127.0.0.1'
MOST_STEPS = 10_000  # the most steps of a drawing
PATIENCE = 10.0  # seconds for a whole request
HEADERS = {
  'Content-Security-Policy': (
    "default-src 'none'; connect-src 'self'; img-src data:; style-src "
    "'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}
# The fields of config.sampling that are arguments of the compiled programs.
ARGUMENTS = (
  'labels',
  'lengths',
  'prompt',
  'context',
  'context_row',
  'seed',
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


Emerge = Callable[[overrides.Flags], Iterator[Frame]]


def main(run: Run) -> None:
  """Serves the page until Ctrl-C."""
  server = server_of(application(run))
  with listening(run.model.config.serve.port) as listener:
    port = listener.getsockname()[1]
    print(f'open http://{HOST}:{port}/ (Ctrl-C ends)', flush=True)
    try:
      server.run(sockets=[listener])
    except KeyboardInterrupt:
      print('ended')


def server_of(app: Callable) -> Any:
  """Returns a uvicorn.Server, which closes a connection without a request in `PATIENCE`."""
  import uvicorn
  from uvicorn.protocols.http import auto

  base: Any = auto.AutoHTTPProtocol

  class Protocol(base):
    # uvicorn itself waits without end for the rest of a request.
    waits = False

    def connection_made(self, transport):
      super().connection_made(transport)
      self.wait()

    def data_received(self, data):
      super().data_received(data)
      self.wait()

    def wait(self):
      if not self.waits:
        self.waits = True
        self.loop.call_later(PATIENCE, self.end)

    def end(self):
      self.waits = False
      if self.cycle is None or self.cycle.response_complete:
        self.transport.close()

  config = uvicorn.Config(app, http=Protocol, log_level='warning', timeout_graceful_shutdown=1)
  return uvicorn.Server(config)


def listening(port: int) -> socket.socket:
  """Returns a socket for this machine only; port 0: any free one."""
  try:
    return socket.create_server((HOST, port))
  except OSError as error:
    reason = os.strerror(error.errno or 0)
    raise UserError(
      f'config.serve.port={port} cannot be opened ({reason}): give another, or 0 for a free one'
    ) from error


def application(run: Run) -> Callable:
  """Returns the ASGI application: the page, its settings, and pictures."""
  from starlette import responses
  from starlette.applications import Starlette
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware
  from starlette.routing import Route

  model, emerge = run.model, emerging(run)
  known = [field['name'] for field in fields(model)]
  place = resources.files('diffusion_jax.app.modes')
  page = place.joinpath('serve.html').read_text()

  def index(request):
    return responses.HTMLResponse(page, headers=HEADERS)

  def settings(request):
    content = {'title': model.run.path.name, 'fields': fields(model)}
    return responses.JSONResponse(content, headers=HEADERS)

  def draw(request):
    # Another site's page could otherwise keep this machine busy.
    site = request.headers.get('sec-fetch-site', 'none')
    own = f'http://{request.headers["host"]}'
    origin = request.headers.get('origin', own)
    if site not in ('same-origin', 'none') or origin != own:
      return responses.PlainTextResponse('not from another site', 403)
    given = request.query_params
    flags = [(f'sampling.{n}', given[n]) for n in known if given.get(n)]
    return responses.StreamingResponse(
      pictures(emerge, flags), media_type='text/event-stream', headers=HEADERS
    )

  paths = {'/': index, '/settings': settings, '/draw': draw}
  routes = [Route(path, answer) for path, answer in paths.items()]
  hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, 'localhost'])
  return Starlette(routes=routes, middleware=[hosts])


def pictures(emerge: Emerge, flags: list[tuple[str, str]]) -> Iterator[str]:
  """Yields an event for each step, with some pictures; or one with an error."""
  try:
    steps = dict(flags).get('sampling.num_steps', '').strip()
    if len(steps) > 20 or _number(steps) > MOST_STEPS:
      raise UserError(f'steps: {steps:.20} are more than {MOST_STEPS} of a page')
    for step, total, sheet, compiles in emerge(flags):
      image = {} if sheet is None else {'image': as_uri(Image.fromarray(sheet.squeeze()))}
      yield event(step=step, total=total, compiles=compiles, **image)
  except UserError as error:
    yield event(error=one_line(str(error)))


def _number(text):
  # 0, which config.sampling.num_steps refuses, stands for any other text.
  try:
    return convert(FlagText(text), int)
  except Misfit:
    return 0


def event(**content: object) -> str:
  """Returns an event of `text/event-stream`."""
  return f'data: {json.dumps(content)}\n\n'


def fields(model: Model) -> list[dict]:
  """Returns the fields of config.sampling that the page shows."""
  c, every = model.config.sampling, []

  def add(name, label, value, **more):
    every.append({'name': name, 'label': label, 'value': value, **more})

  if takes_labels(model):
    names = model.facts.class_names
    words = (word_for(i, names) for i in range(model.facts.num_classes))
    classes = [overrides.as_text((word,)) for word in words]
    add('labels', 'class', '', choices=['', *classes])
  if text_length(model.config):
    add('prompt', 'text', c.prompt or '')
  if model.conditioning.context is not None:
    of = Path(c.context).name or 'the held-out contexts'
    add('context_row', f'row of {of}', c.context_row, least=0)
  if 'grid' in c:
    if takes_pairs(model.config):
      add('sampler.scale', 'guidance scale', c.sampler.scale)
    elif 'sampler' in c:
      table = model.schema.table('sampling.sampler')
      names = [name for name, x in table.items() if not declared_by(x).takes_pairs]
      add('sampler', 'sampler', c.sampler.name, choices=names)
    beyond = None if model.noisy is None else model.noisy.process.steps
    add('num_steps', 'steps', c.grid.get('number'), least=1, beyond=beyond)
  if 'guidance' in c and (c.guidance or model.conditioning.dropout):
    if not takes_pairs(model.config):
      add('guidance.scale', 'guidance scale', c.guidance.scale if c.guidance else 1.0)
  if model.noisy is not None and model.noisy.needs.guidance_scale:
    add('guidance_scale', 'guidance scale', c.guidance_scale)
  add('seed', 'seed', c.seed, least=0)
  return every


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
    yield from _frames(programs, model, inputs)

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
    self._effort: Effort = effort(model.config)
    self.data = run.examples
    self.lock = threading.Lock()
    self.ready: set[str] = set()  # the keys of programs that are compiled
    self._kept: dict[str, tuple[Program, Program]] = {}

  def of(self, model: Model) -> tuple[Program, Program]:
    """Returns the programs of a step and of the decoder, once for each key."""
    key = key_of(model.config)
    with self.lock:
      if key not in self._kept:
        step = program('the sampler', step_of(model), self.mesh, self._effort)
        decoder = program('the decoder', model.latents.decoded, self.mesh, self._effort)
        self._kept[key] = step, decoder
      return self._kept[key]

  def last(self, model: Model, inputs: conditions.Conditions, draw, x, drawn):
    """Returns the sheet of the last x, drawn again outside data.bounds.

    draw: (index [count], cond) -> x [count, ...]; drawn: see `draw_sheet`.
    """

    def again(params, index, cond):
      copies = np.arange(self.count) % len(index)
      return (draw(index[copies], rows(cond, copies))[: len(index)],)

    index = np.arange(self.count)
    samples, _ = in_box(model, inputs, again, self.params, index, x, attempts=FEW)
    return draw_sheet(model, samples, data=self.data, drawn=drawn)


def _frames(programs, model, inputs):
  # A drawing that nobody waits for ends after any step.
  step, decode = programs.of(model)
  key, both = key_of(model.config), programs.both
  plan: Any = model.noisy and model.plan(*both)
  total = plan.num_steps if plan else 1

  def states(index, cond):
    # Yields x before the first step, and after each step.
    keys = fold_each(model.root(), index)
    if plan is None:
      yield None
      with programs.lock:
        x = jax.block_until_ready(step.start(both, keys, cond))
      yield x
      return
    with programs.lock:
      keys, grid, x = plan.begin(keys, cond)
      levels = jax.device_get(grid)
      sampler = plan.sampler_of(cond)
      keys = sampler.keys(as_one_key(keys), total)
      start = x, sampler.init(x), keys
      x, state, keys = jax.device_put(start, replicated(programs.mesh))
    carry = x, state
    yield x
    for i in range(total):
      ends = at_step(levels, i), at_step(levels, i + 1)
      scale = scale_of(model.config)
      with programs.lock:
        carry = jax.block_until_ready(step.start(both, rows(keys, i), carry, cond, scale, ends))
      yield carry[0]

  def images(x):
    with programs.lock:
      x = jax.device_get(x if plan is None else decode.start(programs.params, x))
    check_numbers(model, x)
    return x

  def others(x):
    return jax.device_get(plan.others(x)) if model.draws else {}

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
      sheet = programs.last(model, inputs, draw, images(x), others(x))
    elif i in shown and x is not None:
      drawn = conditions.to_their_lengths(
        inputs, np.arange(programs.count), model.facts.x.decode(images(x))
      )
      sheet = draw_sheet(model, drawn, data=programs.data, drawn=others(x))
    yield Frame(i, total, sheet, compiles=not i and key not in programs.ready)


def step_of(model: Model) -> Callable:
  """Returns the function of one step, or of all for a model without steps."""

  def step(both, keys, carry, cond, scale, ends):
    assert model.plan is not None
    plan, (x, state), (level_t, level_s) = model.plan(*both), carry, ends
    denoise = plan.step_function(cond, scale=scale)
    sampler = plan.sampler_of(cond)
    return take_step(sampler, keys, x, state, denoise, level_s=level_s, level_t=level_t)

  def whole(both, keys, cond):
    params, guides = both
    return model.draw(params, guides, keys, cond)[0]

  return whole if model.noisy is None else step


def key_of(config: Node) -> str:
  """Returns what a program of config.sampling is compiled for."""
  section = folder.flat(folder.plain(config)['sampling'])
  # The noise of churn depends on the number of steps.
  free = () if config.sampling.get('churn') else ('grid.name', 'grid.number', 'grid.steps')
  fixed = {n: x for n, x in section.items() if n not in (*ARGUMENTS, *free)}
  return json.dumps(fixed, sort_keys=True)


def scale_of(config: Node) -> np.float32:
  """Returns the scale of the guidance of config.sampling; 1 without it."""
  c = config.sampling
  scale = c.get('guidance_scale', 1.0)
  return np.float32(c.guidance.scale if c.get('guidance') else scale)
