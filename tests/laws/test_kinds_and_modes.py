"""Each kind of model, through each mode: it works, or one line says why not.

Kinds and modes are found from the configs and the tables of modes, edits and metrics.
Runs are untrained, so some samples have NaN, which are refused. Planted faults that it
catches: `check_numbers` lets NaN pass (digits, sample);
`Model.check` refuses nothing (digits_classifier, serve); a mode takes longer than `SECONDS`.
"""

import contextlib
import re
import signal
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import roles
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import drawings
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app import test_cli
from tests.app.config.test_overrides import ALL
from tests.app.conftest import read, trial, untrained
from tests.app.fields import within

SECONDS = 240  # after which a mode hangs
CONVERSIONS = 'safetensors', 'diffusers', 'stablehlo', 'huggingface', 'lora'
TABLES = read('digits').schema.table
# Of all runs: the default evaluation of a text's bound is of thousands of examples.
FIELDS = {'sampling.checkpoint': 'latest'} | within(
  'evaluation', num_images=4, batch_size=4, num_generated=8
)
FEW = '--config.evaluation.num_images=4 --config.evaluation.batch_size=4'
IMAGE = '--config.edit.image=EXAMPLE'
EDITED = {
  'inpaint': f'{IMAGE} --config.edit.mask=EXAMPLE',
  'sdedit': IMAGE,
  'interpolate': f'{IMAGE} --config.edit.image2=EXAMPLE',
  'superres': IMAGE,
  'colorize': IMAGE,
  'restore': f'{IMAGE} --config.edit.operator=blur --config.edit.noise=0.1',
}
# The flags that a mode is run with, besides none.
WAYS = {
  'sample': ['--config.sampling.trajectory=True'],
  'evaluate': [f'--config.evaluation.metrics={name} {FEW}' for name in ('loss', 'elbo')],
  'edit': [f'--config.edit={name} {EDITED.get(name, "")}' for name in TABLES('edit')],
  'convert': [f'--config.convert.to={x} --config.convert.out=out-{x}' for x in CONVERSIONS],
  'serve': [],
}
CELLS = [(mode, flags) for mode in MODES if mode != 'train' for flags in ('', *WAYS.get(mode, ()))]


def kind_of(name):
  """Returns what distinguishes a model: its kind, objective, network and conditions."""
  c = read(name)
  conditions = c.get('conditioning') or {}
  given = [n for n in ('text', 'image', 'context') if conditions.get(n)]
  given += [c.at('objective.levels.name') or '']
  return c.schema.kind, c.objective.name, bool(c.at('latent.run')), c.network.name, *given


def smallest():
  """Returns the name of a config for each kind, of the digits if there is one."""
  names = sorted((':'.join(filter(None, x)) for x in ALL), key=lambda x: 'digits' not in x)
  return [*{kind_of(name): name for name in reversed(names)}.values()]


KINDS = smallest()
command = test_cli.command  # a fixture


def small(name, argument):
  """Returns the trial of a config; generated pictures have at most 32 x 32 pixels."""
  config = trial(name, argument, **FIELDS)
  shape: Any = config.data.get('image_shape') or ()
  if max(shape, default=0) <= 32:
    return config
  more = FIELDS | {'data.image_shape': (32, 32, 3)}
  if latents := config.at('latent.shape'):
    more['latent.shape'] = (*(32 * n // shape[0] for n in latents[:2]), latents[2])
  return trial(name, argument, **more)


def run_of(name, folder_of_runs):
  """Makes an untrained run, and those that it needs; returns its folder."""
  workdir = folder_of_runs / name.replace(':', '-')
  if (workdir / 'config.json').exists():
    return workdir
  config = small(*name.partition(':')[::2])
  for field in roles.PREDECESSORS:
    if run := config.at(field):
      base, _, argument = re.sub('[-_]smoke$', '', Path(run).name).partition('-')
      made = run_of(':'.join(filter(None, (base, argument))), folder_of_runs)
      with contextlib.suppress(FileExistsError):
        Path(run).parent.mkdir(parents=True, exist_ok=True)
        Path(run).symlink_to(made)
  untrained(config, workdir)
  model, mesh = make_model(config, RunFolder.at(workdir)), make_mesh(config)
  for part in (model.teacher, model.autoencoder):
    part.prepare(datasets.source_of(config), mesh)
  write_example(config, model.facts.x, workdir)
  return workdir


def write_example(config, values, path):
  """Writes the first example to a file, as a user of --mode=edit has it."""
  first = datasets.source_of(config).read(np.arange(1))['x']
  if values.is_picture:
    drawings.write_png(path.with_name(f'{path.name}.png'), values.decode(values.encode(first))[0])
  else:
    np.save(path.with_name(f'{path.name}.npy'), first)


@contextlib.contextmanager
def ends():
  """Fails in a mode that hangs, by an exception that no mode makes a line of."""

  def stop(*_):
    pytest.fail(f'nothing ends it within {SECONDS} s')

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def serve_once(server, sockets):
  """Serves a page, and one drawing that it asks for."""
  thread = threading.Thread(target=vars(uvicorn.Server)['serve_all'], args=(server, sockets))
  thread.start()
  address = f'http://127.0.0.1:{sockets[0].getsockname()[1]}/'
  try:
    for path in ('', 'draw'):
      with urllib.request.urlopen(address + path, timeout=SECONDS) as answer:
        assert answer.status == 200
        text = answer.read().decode()
    assert 'image' in text or '"error"' in text, text
  finally:
    server.should_exit = True
    thread.join(30)


def check(name, mode, flags, place, command, monkeypatch):
  """Runs a mode of a kind as its user types it."""
  monkeypatch.chdir(place)
  monkeypatch.setattr(uvicorn.Server, 'serve_all', uvicorn.Server.run, raising=False)
  # It would close the stream of absl's log, which is pytest's.
  monkeypatch.setattr(uvicorn.Config, 'configure_logging', lambda config: None)
  monkeypatch.setattr(uvicorn.Server, 'run', lambda server, sockets: serve_once(server, sockets))
  run = run_of(name, place / 'all')
  example = next(x for end in ('.png', '.npy') if (x := run.with_name(f'{run.name}{end}')).exists())
  more = (
    ['--config.serve.port=0'] if mode == 'serve' else flags.replace('EXAMPLE', str(example)).split()
  )
  with ends():
    result = command(f'--config={run}', f'--mode={mode}', *more, cwd=place)
  said = result.stdout + result.stderr
  assert result.returncode in (0, 2), said
  assert 'Traceback' not in said, said
  if result.returncode:
    assert re.fullmatch(r'error: [^\n]+\n', result.stderr), said
  for path in run.rglob('*.npz'):
    with np.load(path) as arrays:
      assert all(np.isfinite(x).all() for x in arrays.values() if x.dtype.kind == 'f'), path


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('kinds')


# In the default run a few kinds, each by a mode of its own that takes a second.
SOME = [(name, *CELLS[i % len(CELLS)]) for i, name in enumerate(KINDS)][2:18:3]


@pytest.mark.parametrize('name, mode, flags', SOME)
def test_a_mode_of_each_kind_works_or_says_why_not(name, mode, flags, place, command, monkeypatch):
  check(name, mode, flags, place, command, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('mode, flags', CELLS)
@pytest.mark.parametrize('name', KINDS)
def test_every_mode_of_every_kind_works_or_says_why_not(
  name, mode, flags, place, command, monkeypatch
):
  check(name, mode, flags, place, command, monkeypatch)
