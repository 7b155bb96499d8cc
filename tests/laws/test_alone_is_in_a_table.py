"""A cell of a table is what the command of one metric at one point makes, named by all it reads.

No program is run: what it would compute is drawn by a hash of the traced program and of all that
it gets, so that a score changes with everything that it may depend on. Planted faults:
`cells.fields_of` without the checkpoint or without what a metric `reads` of the sampling, and
`cells._read_by` without the seed, so that a flag is refused that changes the score;
`mode.log_density` without the seed, so that a command takes the densities of another.

Each field that a metric reads is tried with each metric and with each config that have it, a
pairwise covering of metric x config x field; each field that is refused, with all of them.
"""

import contextlib
import functools
import io
import json
import os
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from diffusion_jax.app.config import folder
from diffusion_jax.app.evaluate import cells, mode
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.core.keys import fold_each
from diffusion_jax.data import reads
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, plots, real_images
from diffusion_jax.runtime.files import make_folder, read_json, write_npz
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, trial
from tests.app.evaluate.test_scorers import halves
from tests.app.fields import within
from tests.rows import slow

# Small configs of each kind of model, and one of pairs.
CONFIGS = 'digits', 'digits_masked', 'digits_meanflow', 'digits_vae', 'digits_classifier'
CONFIGS += 'moons_bridge', 'two_moons', 'rollout'
FEW = within('evaluation', num_generated=12, num_pairs=12, draws_per_pair=3, num_images=5)
FEW |= {'training.checkpoints.best': None, 'sampling.checkpoint': 'latest'}
TEXTS = 'zz', '2', '3', '0.5', 'True', 'False', 'train', 'test', 'pixels', 'values', 'raw', 'None'
MOST = 3  # other values of a field
USUAL = 'digits', 'two_moons'
_HOME = tempfile.TemporaryDirectory()  # of simulations
OF_TABLE = 'evaluation.metrics', 'evaluation.sweep', 'evaluation.name'


# -- programs that hash what they get ------------------------------------------


def hashed(*parts):
  """Returns a generator of numbers whose seed is a sum of arrays and texts."""
  content = (p.encode() if isinstance(p, str) else np.asarray(p).tobytes() for p in parts)
  return np.random.default_rng(zlib.crc32(b'|'.join(content)))


def arrays_in(tree):
  leaves = jax.tree.leaves(tree)
  is_key = lambda x: jnp.issubdtype(getattr(x, 'dtype', np.dtype(int)), jax.dtypes.prng_key)
  return [jax.random.key_data(x) if is_key(x) else x for x in leaves]


@functools.cache
def shapes_of(name):
  return make_model(config_of(name), RunFolder.at(_HOME.name)).shapes()


def restored(model, merge=True):
  """Returns parameters by the fields that choose them; the last step is 4, the best 2."""
  c = model.config.sampling
  step = {'latest': 4, 'best': 2}.get(c.checkpoint) or int(c.checkpoint)
  value = hashed(str(c.weights), str(step)).uniform()
  name = model.workdir.path.name
  return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes_of(name)), step


class Drawn:
  """Stands for the program that draws samples: random numbers by a hash of what it gets."""

  def __init__(self, model, mesh, size=0):
    c = folder.plain(model.config)['sampling']
    self.of = json.dumps({n: x for n, x in c.items() if n not in ('weights', 'checkpoint')})
    self.shape = model.facts.x.shape

  def start(self, params, index, cond):
    rng = hashed(self.of, *arrays_in((params, index, cond)))
    return lambda: (rng.uniform(-1.0, 1.0, (len(index), *self.shape)), None, {})


class Traced:
  """Stands for the program of a metric of real examples: numbers by a hash of its trace."""

  def __init__(self, function, mesh, roots, size=0, what=''):
    self.function, self.roots = function, roots

  def start(self, params, index, inputs):
    keys = jax.tree.map(lambda root: fold_each(root, index), self.roots)
    args = params, keys, inputs
    program, shapes = jax.make_jaxpr(self.function, return_shape=True)(params, keys, inputs)
    text = re.sub('0x[0-9a-f]+', '', str(program))
    rng = hashed(text, *arrays_in((program.consts, args)))
    made = {n: rng.uniform(1.0, 9.0, x.shape) for n, x in shapes.items()}
    made = {
      n: x > 5.0 if shapes[n].dtype == bool else x.astype(shapes[n].dtype) for n, x in made.items()
    }
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
    patch.setattr(reads, 'record', dict)  # a command is a process, which has opened nothing before
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
  return make_model(config_of(name), RunFolder.at(_HOME.name)).facts


def new_run(name, place):
  """Makes a run folder with a config.json only."""
  run = make_folder(place, name)
  folder.write_config(RunFolder.at(run), config_of(name), facts_of(name))
  return run


def evaluate(run, flags=(), **fields):
  """Runs the mode evaluate; flags: the fields that were typed, refused if nothing reads them."""
  config = of_run(run, **fields)
  start: Any = MODES['evaluate']
  with contextlib.redirect_stdout(io.StringIO()):
    start(config, str(run), given=flags)


def made_by(run, metric, flags=(), **fields):
  """Returns the result of the command of one metric: its folder's name, and its content."""
  for path in (run / 'evaluation').glob('*/result.json'):
    os.utime(path, (0, 0))
  evaluate(run, flags, **fields | {'evaluation.metrics': metric})
  paths = (run / 'evaluation').glob('*/result.json')
  path = max(paths, key=lambda path: path.stat().st_mtime)
  return path.parent.name, read_json(path)


def unread(error):
  """Returns the field that a line says has no effect; raises the error if it says another thing."""
  path = re.match(r'config\.(?:evaluation\.sweep: )?([\w.]+).* has no effect with', str(error))
  if not path:
    raise error
  return path[1]


def typed(run, metric, **fields):
  """Returns (`made_by` of flags without those that are refused as not read, these)."""
  refused = []
  while True:
    flags = {path: x for path, x in fields.items() if path not in refused}
    try:
      return made_by(run, metric, flags, **flags), refused
    except UserError as error:
      refused.append(unread(error))


def is_refused(run, metric, path, text):
  """Returns whether a command says that its only flag has no effect."""
  config = of_run(run, **{'evaluation.metrics': metric, path: text})
  try:
    cells.points_of(Run.open(config, RunFolder.at(run), given=[path]))
  except UserError as error:
    return unread(error) == path
  return False


# -- what there is -------------------------------------------------------------


@functools.cache
def metrics_of(name):
  """Returns the metrics that a model and its data allow, but the one that trains classifiers."""
  able = []
  for metric in config_of(name).schema.metrics:
    with contextlib.suppress(UserError), tempfile.TemporaryDirectory() as place:
      run = new_run(name, Path(place))
      config = of_run(run, **{'evaluation.metrics': metric})
      for point in cells.points_of(Run.open(config, RunFolder.at(run))):
        mode.check(point)
      able.append(metric)
  return [metric for metric in able if metric != 'c2st']


@functools.cache
def values_of(name):
  """Returns {field: other values as typed} of all fields of evaluation and sampling."""
  config = with_valid(config_of(name), {'evaluation.metrics': ','.join(metrics_of(name))})
  before, values = folder.plain(config), {}
  for path in config.paths():
    if path.startswith(('evaluation.', 'sampling.')) and not path.endswith('.name'):
      texts = [*TEXTS] * (path not in OF_TABLE)
      for text in texts:
        if len(values.get(path, ())) == MOST:
          break
        try:
          new = folder.plain(with_valid(config, {path: text}))
        except UserError as error:
          names = re.search('is not one of (.*)', str(error))
          texts += names[1].split(', ') if names and text == 'zz' else []
          continue
        if new != before:
          values.setdefault(path, []).append(text)
  return values


def with_valid(config, fields):
  """Returns the config with fields; raises UserError if it is refused."""
  config = store.with_flags(config, [*fields.items()])
  make_model(config, RunFolder.at(_HOME.name)).check('evaluate')
  return config


@pytest.fixture(scope='module')
def tried():
  """Returns {(metric or config, field)}, those that earlier tests tried with each other."""
  return set()


@pytest.fixture
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('tables')


# -- the law -------------------------------------------------------------------

FLAGS = [
  ('digits', 'elbo', 'evaluation.elbo'),
  slow('two_moons', 'density_coverage', 'evaluation.'),
]
FLAGS += [
  pytest.param(name, metric, '', marks=pytest.mark.slow)
  for name in CONFIGS
  for metric in config_of(name).schema.metrics
]


@pytest.mark.parametrize('name, metric, section', FLAGS)
def test_a_flag_changes_the_result_or_is_refused(name, metric, section, place, tried):
  """Each value of a field gives another result, the same in a new folder and in a used one."""
  if metric not in metrics_of(name):
    return
  first = new_run(name, place / '0')
  usual, config, idle = made_by(first, metric), config_of(name), {}
  for path, texts in values_of(name).items():
    if path.split('.')[1] in {*metrics_of(name)} - {metric}:
      continue
    for text in texts:
      with contextlib.suppress(UserError):
        with_valid(config, {'evaluation.metrics': metric} | idle | {path: text})
        if is_refused(first, metric, path, text):
          idle.setdefault(path, text)
          continue
        if path.startswith(section):
          if not tried >= {(metric, path), (name, path)}:
            found = typed(new_run(name, place / f'{path} {text}'), metric, **{path: text})
            assert found[0] != usual and typed(first, metric, **{path: text}) == found, path
            tried |= {(metric, path), (name, path)}
        break
  code, content = made_by(new_run(name, place / 'idle'), metric, **idle)
  assert idle and (code[-8:], content) == (usual[0][-8:], usual[1])


EXAMPLES = [
  pytest.param(name, 3, marks=[pytest.mark.slow] * (name != 'digits')) for name in CONFIGS
]
EXAMPLES += [pytest.param(name, 15, marks=pytest.mark.slow) for name in CONFIGS]


def numbers_in(tree):
  """Returns all numbers of a file's content."""
  return {x for x in jax.tree.leaves(tree) if isinstance(x, float)}


@pytest.mark.parametrize('name, count', EXAMPLES)
def test_a_cell_is_the_command_of_its_metric(name, count, tmp_path_factory):
  swept = {n: x for n, x in values_of(name).items() if n.startswith('sampling.') and len(x) > 1}

  @settings(max_examples=count, derandomize=True, deadline=None, database=None,
            suppress_health_check=[*HealthCheck])  # fmt: skip
  @given(st.data())
  def law(data):
    metrics = data.draw(
      st.lists(st.sampled_from(metrics_of(name)), min_size=2, max_size=2, unique=True)
    )
    fields = data.draw(st.lists(st.sampled_from([*swept]), min_size=1, max_size=2, unique=True))
    place = tmp_path_factory.mktemp('law')
    table, single = new_run(name, place / 'table'), new_run(name, place / 'single')
    points = {}
    while not points:
      assume(fields)
      sweep = ' '.join(f'{n.partition(".")[2]}={",".join(swept[n][:2])}' for n in fields)
      try:
        evaluate(table, **{'evaluation.metrics': ','.join(metrics), 'evaluation.sweep': sweep})
      except UserError as error:
        if 'has no effect' not in str(error):
          assume(False)
        fields.remove(f'sampling.{unread(error)}')
        continue
      [path] = (table / 'evaluation').glob('sweep-*/sweep.json')
      points: Any = read_json(path)['points']
    row = data.draw(st.sampled_from(points))
    point = {f'sampling.{n}': x for n, x in row['point'].items()}
    for metric in metrics:
      (folder, content), _ = typed(single, metric, **point)
      assert row['results'][metric] == folder
      assert read_json(table / 'evaluation' / folder / 'result.json') == content
      assert numbers_in(content) & numbers_in(row['metrics'])

  law()
