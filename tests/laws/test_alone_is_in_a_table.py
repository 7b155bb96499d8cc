"""A cell of a table is the command of its metric and its point alone, and is named by all it reads.

No program is run: what it would compute is drawn by a hash of the traced program and of all that
it gets, so that a score changes with whatever it may depend on. Planted faults:
`cells.fields_of` without the checkpoint, so that rows share a score; `cells._read_by` without the
seed, so that a flag is refused that changes the score; `mode.log_density` without the seed, so
that the second command takes the densities of the first.
"""

import contextlib
import functools
import io
import json
import re
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from diffusion_jax.app.config import folder
from diffusion_jax.app.evaluate import cells
from diffusion_jax.app.evaluate.metrics_of_data import OF_SETS
from diffusion_jax.app.kinds import registry, store
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import Run
from diffusion_jax.core.keys import fold_each
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, plots, real_images
from diffusion_jax.runtime.files import make_folder, write_npz
from tests.app.conftest import of_run, trial
from tests.app.evaluate.test_scorers import halves
from tests.app.fields import within

# Small configs of each kind of model, and one of pairs.
CONFIGS = 'digits', 'digits_masked', 'digits_meanflow', 'digits_vae', 'digits_classifier'
CONFIGS += 'moons_bridge', 'two_moons'
FEW = within('evaluation', num_generated=12, num_pairs=12, draws_per_pair=3, num_images=5)
FEW |= {'training.checkpoints.best': None, 'sampling.checkpoint': 'latest'}
TEXTS = '2', '3', '0.5', 'True', 'False', 'raw', '1,2'


# -- programs that hash what they get ------------------------------------------


def hashed(*parts):
  """Returns a generator of numbers whose seed is a sum of arrays and texts."""
  content = (p.encode() if isinstance(p, str) else np.asarray(p).tobytes() for p in parts)
  return np.random.default_rng(zlib.crc32(b'|'.join(content)))


def arrays_in(tree):
  leaves = jax.tree.leaves(tree)
  is_key = lambda x: jax.dtypes.issubdtype(getattr(x, 'dtype', np.dtype(int)), jax.dtypes.prng_key)
  return [jax.random.key_data(x) if is_key(x) else x for x in leaves]


@functools.cache
def shapes_of(name):
  return registry.make(config_of(name), 'x').shapes()


def restored(model, merge=True):
  """Returns parameters by the fields that choose them; the last step is 4, the best 2."""
  c = model.config.sampling
  step = {'latest': 4, 'best': 2}.get(c.checkpoint) or int(c.checkpoint)
  value = hashed(str(c.weights), str(step)).uniform()
  name = model.workdir.name
  return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes_of(name)), step


class Drawn:
  """In place of the program of samples."""

  def __init__(self, model, mesh, size=0):
    c = folder.plain(model.config)['sampling']
    self.of = json.dumps({n: x for n, x in c.items() if n not in ('weights', 'checkpoint')})
    self.shape = model.facts.x.shape

  def start(self, params, index, cond):
    rng = hashed(self.of, *arrays_in((params, index, cond)))
    return lambda: (rng.uniform(-1.0, 1.0, (len(index), *self.shape)), None)


class Traced:
  """In place of the program of a metric of real examples."""

  def __init__(self, function, mesh, roots, size=0, what=''):
    self.function, self.roots = function, roots

  def start(self, params, index, inputs):
    keys = jax.tree.map(lambda root: fold_each(root, index), self.roots)
    args = params, keys, inputs
    program, shapes = jax.make_jaxpr(self.function, return_shape=True)(*args)
    text = re.sub('0x[0-9a-f]+', '', str(program))
    rng = hashed(text, *arrays_in((program.consts, args)))
    made = {n: rng.uniform(1.0, 9.0, x.shape).astype(x.dtype) for n, x in shapes.items()}
    return lambda: made | {n: x for n, x in inputs[1].items() if n in made}


def write(run, inputs, paths, path, settings):
  arrays = {'arr_0': np.concatenate([np.load(x)['arr_0'] for x in paths])}
  write_npz(path, arrays | {'settings': settings, **inputs.stored})


@pytest.fixture(scope='module', autouse=True)
def hashes():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(weights, 'restore', restored)
    patch.setattr(Run, 'on_devices', property(lambda run: run.checkpoint[0]))
    patch.setattr(sample, 'generate', Drawn)
    patch.setattr(sample, 'write', write)
    patch.setattr(sample.conditions, 'encoded', lambda model, params, inputs: inputs)
    patch.setattr(real_images, 'per_example', Traced)
    patch.setitem(features.EXTRACTORS, 'inception', halves)
    for name in vars(plots):
      if name.startswith('plot_'):
        patch.setattr(plots, name, lambda *args, **kwargs: None)
    yield


# -- commands ------------------------------------------------------------------


@functools.cache
def config_of(name):
  small = name in ('digits', 'digits_masked', 'digits_meanflow')
  few = within('data', num_examples=100, num_test=16) if name == 'two_moons' else {}
  return trial(name, small=small, **FEW | few)


@functools.cache
def facts_of(name):
  return registry.make(config_of(name), 'x').facts


def new_run(name, place):
  """Makes a run folder with a config.json only."""
  run = make_folder(place, name)
  folder.write_config(run, config_of(name), facts_of(name))
  return run


def evaluate(run, flags=(), **fields):
  """Runs a command; flags: those of the fields that it does not read are refused."""
  config = of_run(run, **fields)
  with contextlib.redirect_stdout(io.StringIO()):
    MODES['evaluate'](config, str(run), given=flags)


def results(run):
  """Returns the content of each result by its folder."""
  paths = (run / 'evaluation').glob('*/result.json')
  return {path.parent.name: json.loads(path.read_text()) for path in paths}


def alone(run, metric, **fields):
  """Returns the folder and content of the only result of a command."""
  before = {n: (run / 'evaluation' / n / 'result.json').stat().st_mtime_ns for n in results(run)}
  evaluate(run, **fields | {'evaluation.metrics': metric})
  after = results(run)
  time = lambda n: (run / 'evaluation' / n / 'result.json').stat().st_mtime_ns
  [name] = [n for n in after if before.get(n) != time(n)]
  return name, after[name]


@functools.cache
def metrics_of(name, place):
  """Returns the metrics that a config's data and conditions allow."""
  able = []
  for metric in config_of(name).schema.metrics:
    run = new_run(name, place / metric)
    with contextlib.suppress(UserError):
      evaluate(run, **{'evaluation.metrics': metric})
      able.append(metric)
  return able


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('tables')


@pytest.mark.parametrize('name', CONFIGS)
def test_x(name, place):
  import time; t=time.time()
  print(name, metrics_of(name, place), time.time()-t)
