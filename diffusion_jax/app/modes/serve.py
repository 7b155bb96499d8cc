"""Implements --mode=serve: opens a page of a run, on this machine only."""

import base64
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_jax.app.drawing.emerging import Emerge, emerging
from diffusion_jax.app.inputs.conditions import takes_labels
from diffusion_jax.app.inputs.datasets import text_length
from diffusion_jax.app.model import Model
from diffusion_jax.app.run.weights import Run
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import FlagText, Misfit, convert
from diffusion_jax.runtime.files import one_line

HOST = '127.0.0.1'
MOST_STEPS = 10_000  # of a drawing
HEADERS = {
  'Content-Security-Policy': (
    "default-src 'none'; connect-src 'self'; img-src data:; style-src "
    "'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}


def run(run: Run) -> None:
  """Serves the page until Ctrl-C."""
  import uvicorn

  app = application(run.model, emerging(run))
  how = {'log_level': 'warning', 'timeout_graceful_shutdown': 1}
  server = uvicorn.Server(uvicorn.Config(app, **how))
  with listening(run.model.config.serve.port) as listener:
    port = listener.getsockname()[1]
    print(f'open http://{HOST}:{port}/ (Ctrl-C ends)', flush=True)
    try:
      server.run(sockets=[listener])
    except KeyboardInterrupt:
      print('ended')


def listening(port: int) -> socket.socket:
  """Returns a socket for this machine only; port 0: any free one."""
  try:
    return socket.create_server((HOST, port))
  except OSError as error:
    reason = os.strerror(error.errno or 0)
    raise UserError(
      f'config.serve.port={port} cannot be opened ({reason}): give another, or 0 for a free one'
    ) from error


def application(model: Model, emerge: Emerge) -> Callable:
  """Returns the ASGI application: the page, its settings, and pictures."""
  from starlette import responses
  from starlette.applications import Starlette
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware
  from starlette.routing import Route

  known = [field['name'] for field in fields(model)]
  place = resources.files('diffusion_jax.app.modes')
  page = place.joinpath('serve.html').read_text()

  def index(request):
    return responses.HTMLResponse(page, headers=HEADERS)

  def settings(request):
    content = {'title': model.workdir.name, 'fields': fields(model)}
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
    if any(name == 'sampling.num_steps' for name, _ in flags):
      flags.append(('sampling.respacing', ''))
    options = {'media_type': 'text/event-stream', 'headers': HEADERS}
    return responses.StreamingResponse(pictures(emerge, flags), **options)

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
      image = {} if sheet is None else {'image': as_url(sheet)}
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


def as_url(picture: np.ndarray) -> str:
  """Returns a picture uint8 [H, W, C] as the URL of a PNG."""
  file = io.BytesIO()
  Image.fromarray(picture.squeeze()).save(file, format='PNG')
  data = base64.b64encode(file.getvalue()).decode()
  return f'data:image/png;base64,{data}'


def fields(model: Model) -> list[dict]:
  """Returns the fields of config.sampling that the page shows."""
  c, every = model.config.sampling, []

  def add(name, label, value, **more):
    every.append({'name': name, 'label': label, 'value': value, **more})

  if takes_labels(model):
    classes = [str(i) for i in range(model.facts.num_classes)]
    add('labels', 'class', '', choices=['', *classes])
  if text_length(model.config):
    add('prompt', 'text', c.prompt or '')
  if model.conditioning.context is not None:
    of = Path(c.context).name or 'the held-out contexts'
    add('context_row', f'row of {of}', c.context_row, least=0)
  if model.plan is not None:
    if 'sampler' in c:
      names = [*model.schema.table('sampling.sampler')]
      add('sampler', 'sampler', c.sampler.name, choices=names)
    beyond = None if model.noisy is None else model.noisy.schedule_steps
    add('num_steps', 'steps', c.num_steps, least=1, beyond=beyond)
  if 'guidance' in c and (c.guidance or model.conditioning.dropout):
    scale = c.guidance.scale if c.guidance else 1.0
    add('guidance.scale', 'guidance scale', scale)
  if model.noisy is not None and model.noisy.needs.guidance_scale:
    add('guidance_scale', 'guidance scale', c.guidance_scale)
  add('seed', 'seed', c.seed, least=0)
  return every
