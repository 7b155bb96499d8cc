"""Runs of digits:long, shrunk, with a small network, for tests of the application."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from numpy.testing import assert_array_equal

from diffusion_jax.app import cli, modes
from diffusion_jax.app.config import experiments, folder, trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import IDENTITY, Model, make_mesh
from diffusion_jax.app.run import drawing, weights
from diffusion_jax.app.run.drawing import generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.app.train import floors, mode, setup
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import references
from diffusion_jax.paths import texts_in
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.files import make_folder, read_json_lines
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import checkpoints, load
from tests.app.fields import within
from tests.app.small_network import SmallAutoencoder, SmallNetwork

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = f'{SmallNetwork.__module__}:SmallNetwork'
DIGITS = Facts(ArraySpec((8, 8, 1), 17), 10)
SEEN = within('training', sample_every=4, held_out__every=2)
SEEN |= within('report', after_training=True)
TRACKED = within('training.average', 'powers', widths=(0.05, 0.10), every=1)
TRACKED |= within('training', checkpoints__every=1, checkpoints__keep=4)


# Fields that neither the step nor the first state of a training depends on.
_NOT_IN_STEPS = (
  *(name for name in roles.FREE if not name.startswith(('network.', 'training.', 'matmul'))),
  *"""
    training.band training.checkpoints training.held_out training.log_every training.log_to
    training.metrics training.resume training.sample_every training.machine.compile_ahead
    training.machine.num_threads training.machine.trace
  """.split(),
)
_NOT_IN_DENOISING = tuple(
  """
  data optimizer.decay optimizer.learning_rate optimizer.warmup_steps training.num_steps
  training.random_flip
""".split()
)
# Fields that a program of samples does not depend on, or takes as arrays.
_NOT_IN_SAMPLES = tuple(
  """
  average band compilation_cache convert data edit evaluation facts report seed serve training
  sampling.batch_size sampling.checkpoint sampling.context sampling.labels sampling.name
  sampling.num_samples sampling.profile sampling.prompt sampling.seed sampling.trajectory
  sampling.weights
""".split()
)


def fields_of(config, left_out):
  """Returns the fields of a config, but those whose names begin with `left_out`."""
  fields = folder.flat(folder.plain(config)).items()
  return {name: x for name, x in fields if not name.startswith(left_out)}


def facts_of(model):
  """Returns the facts of the data that a network depends on."""
  return model.facts._replace(examples=0, checksum='', class_names=(), skipped=())


def once(function):
  """Makes a function of `setup` return one program to trainings that share it.

  Each of them would trace it again. tests/app/train/test_setup.py shows that
  the rates, the length and the examples of a training are not in its step.
  """
  made = {}

  @functools.wraps(function)
  def shared(*args):
    config = args[0] if isinstance(args[0], Node) else args[0].config
    parts = [x for x in args if isinstance(x, (Mesh, TrainState, float))]
    parts += [facts_of(x) for x in args if isinstance(x, Model)]
    of_data = config.at('objective.coupling') or config.at('conditioning.image')
    simple = config.objective.name == 'denoising' and not of_data
    fields = fields_of(config, _NOT_IN_STEPS + _NOT_IN_DENOISING * simple)
    parts.append(config.at('data.gaps'))  # With lengths, which gaps exclude, it is another step.
    key = json.dumps(fields), str(parts)
    if key not in made:
      made[key] = function(*args)
    return made[key]

  return shared


for _name in ('jit_step', 'state_maker'):
  setattr(setup, _name, once(getattr(setup, _name)))


def shared(per_example):
  """Makes samples of one model by one program, in trainings and modes of any run.

  Models of other runs' parameters, and of modules that a test writes, have their own.
  """
  programs = {}

  def made(draw, mesh, root, size, what, effort, others):
    one = per_example(draw, mesh, root, size, what=what, effort=effort, others=others)
    model = getattr(draw, '__self__', None)
    if not isinstance(model, Model) or model.latents is not IDENTITY:
      return one
    fields = fields_of(model.config, _NOT_IN_SAMPLES)
    parts = [x for x in fields.values() if isinstance(x, str) and ':' in x]
    if model.config.at('training.start.rank') or not all(x.startswith('tests.') for x in parts):
      return one
    key = json.dumps(fields), str(facts_of(model)), effort, mesh
    return dataclasses.replace(one, program=programs.setdefault(key, one.program))

  return made


def measured_once(measure):
  """Makes `floors.measure` compute the losses of the same examples and objective once."""
  found = {}

  def measured(model, mesh, fitted, count, drawn_at, training):
    key, batch = drawn_at(0)
    settings = floors.settings_of(model, str(jax.random.key_data(key)), count), training
    of = json.dumps(settings), batch['x'].tobytes()
    if not settings[0]['checksum'] or of not in found:
      found[of] = measure(model, mesh, fitted, count, drawn_at, training)
    return found[of]

  return measured


floors.measure = measured_once(floors.measure)


def noted_once(note):
  """Makes a note of a training, which is a program of its own, once for equal configs."""
  found = {}

  @functools.wraps(note)
  def noted(config, step=0):
    fields = fields_of(config, ('training', 'data', 'sampling', 'evaluation', 'network.', 'seed'))
    key = json.dumps(fields)
    if ':' in key.replace('": ', ''):  # A user's own part may have changed.
      return note(config, step)
    if key not in found:
      found[key] = note(config, step)
    return found[key]

  return noted


mode.NOTES = tuple(noted_once(x) if x is setup.heavy_noise else x for x in mode.NOTES)
PER_EXAMPLE = drawing.per_example
drawing.per_example = shared(PER_EXAMPLE)


def printed_by(function, *args):
  """Returns what a call prints, for fixtures that cannot use capsys."""
  with contextlib.redirect_stdout(io.StringIO()) as output:
    function(*args)
  return output.getvalue()


def refused(message, function, *args, **kwargs):
  """Checks that a call raises a UserError of one line; returns the line."""
  with pytest.raises(UserError, match=message or None) as error:
    function(*args, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


def refuse_to_compile(monkeypatch):
  """Makes the first program that is compiled, or a reference, an error."""

  @contextlib.contextmanager
  def compiles(what):
    yield  # Its function is traced, which may refuse it, and compiled.
    raise AssertionError(f'{what} is compiled before the refusal')

  for module in compiling, setup:
    monkeypatch.setattr(module, 'announced', compiles)
  # The error of a thread would not be seen.
  monkeypatch.setattr(mode, 'beside', lambda function: function())
  monkeypatch.setattr(drawing, 'per_example', PER_EXAMPLE)
  computed = 'features of real images are computed before the refusal'
  monkeypatch.setattr(references, 'load', lambda *args: pytest.fail(computed))


def lines_of(workdir, name='') -> Any:
  """Returns the lines of metrics.jsonl, or the values of one metric."""
  lines = [*read_json_lines(workdir / 'metrics.jsonl')]
  return [line[name] for line in lines if name in line] if name else lines


def arrays_of(workdir, name='samples', folder='samples'):
  """Returns the arrays of an npz file in a folder of a run."""
  with np.load(kept(workdir / folder, name, '.npz')) as arrays:
    return dict(arrays)


def kept(folder, name, end=''):
  """Returns the newest path of a name, or of this name with a hash, in a folder."""
  name = re.compile(re.escape(name) + '(-[0-9a-f]{8})?' + re.escape(end))
  return max(filter(lambda x: name.fullmatch(x.name), folder.iterdir()), key=os.path.getmtime)


def params_of(workdir, which='average', **fields):
  """Returns the parameters of a checkpoint, the last one by default."""
  return load.open(workdir, which, **fields).params


def assert_same(a, b):
  """Checks that two trees of arrays are equal bit for bit."""
  jax.tree.map(assert_array_equal, a, b)


def of_run(workdir, **changes):
  """Returns the config of a mode that uses a run, without --config."""
  return store.of_run(
    RunFolder.at(workdir), store.open_run(RunFolder.at(workdir)), [*as_flags(changes)]
  )


def restored(workdir, **changes):
  """Returns the parameters that the config of `of_run` chooses."""
  model = make_model(of_run(workdir, **changes), RunFolder.at(workdir))
  return jax.device_get(weights.restore(model)[0])


def drawing_of(config, workdir):
  """Returns (index, cond) -> images, by the parameters that a config chooses."""
  model = make_model(config, RunFolder.at(workdir))
  params, _ = weights.restore(model)
  mesh = make_mesh(config)
  draw, params = generate(model, mesh), replicate(mesh, params)
  return lambda index, cond: draw(params, index, cond)[0]


def without_config(**changes):
  """Returns the config of a command without --config."""
  return store.with_flags(store.completed({}), [*as_flags(changes)])


def as_flags(changes):
  """Yields fields and their values in the form of flags."""
  for path, value in changes.items():
    if isinstance(value, (tuple, list)):
      value = ','.join(map(str, value))
    yield path, str(value)


class Started(modes.Mode):
  """A mode of a config and the place of a run, which `cli.start` runs."""

  def __call__(self, *args, given=()):
    if len(args) == 2:
      config, place = args
      run = place if isinstance(place, RunFolder) else RunFolder.at(place)
      return cli.start(modes.Mode(**self._asdict()), config, run, given=given)
    return super().__call__(*args)


# It is the program that calls a mode, not a part of a user's, whose reading `data.reads` records.
_CALL: Any = Started.__call__
_CALL.__code__ = _CALL.__code__.replace(co_filename=modes.__file__)
modes.MODES.update({name: Started(*row) for name, row in modes.MODES.items()})


@functools.cache
def read(name):
  """Returns the complete config of `name` or `name:variant`."""
  name, _, argument = name.partition(':')
  config = experiments.from_file(str(CONFIGS / f'{name}.py'), argument)
  return store.completed(config)


@functools.cache
def _shrunk(name, argument, small):
  # Reading and completing a config takes longer than many tests.
  if (name, argument) == ('digits', None):  # DDPM as published, with simple rates
    config = read('digits:long')
    rates = within('optimizer', learning_rate=8e-3, decay='linear')
    config = shrunk(store.with_flags(config, [*as_flags(rates)]))
  else:
    config = shrunk(read(f'{name}:{argument or ""}'))
  fewer = within('training', machine__mesh=(1, 1), sample_every=0, held_out=None)
  if small:
    fewer |= {'network': SMALL, 'network.channels': 8}
  return store.with_flags(config, [*as_flags(fewer)])


def trial(name='digits', argument=None, small=False, **changes) -> Any:
  """The trial of a config, with fields changed; small: with SmallNetwork.

  argument: the variant; the digits without one are DDPM's, which :long begins with.

  On one of the eight simulated devices, without previews and evaluations while
  it trains (`SEEN` has them).
  """
  config = _shrunk(name, argument, small)
  trust.allow(texts_in(config))
  return store.with_flags(config, [*as_flags(changes)])


def smoke(**changes) -> Any:
  """The trial of digits:long with a network whose training takes a third of the time.

  The comparison is with a U-Net whose programs are in the cache.
  """
  if 'network' in changes:
    changes = {'network.channels': 8} | changes
  return trial(small=True, **changes)


def unet_smoke(**changes) -> Any:
  """Returns the trial of digits:long with its own U-Net, at one resolution."""
  fewer = within('network', multipliers=(1,), attention_resolutions=())
  fewer['network.middle_attention'] = 'none'
  return trial(**fewer | changes)


def normal_params(model, seed=0, deviation=0.2):
  """Returns random parameters; in new parameters the last layer is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (deviation * rng.standard_normal(x.shape)).astype(x.dtype), model.shapes()
  )


def untrained(config, workdir, deviation=0.2):
  """Makes a run folder of normal parameters, without a training."""
  model = weights.adapted(make_model(config, RunFolder.at(workdir)))
  params = normal_params(model, deviation=deviation)
  workdir = make_folder(workdir)
  folder.write_config(RunFolder.at(workdir), config, model.facts)
  stored = folder.stored_form(config, model.facts)
  checkpoints.save_params(workdir, config.training.num_steps, params, stored)
  return workdir


def interrupted(run, workdir, lost='4'):
  """Returns a copy of a run without one of its checkpoints."""
  shutil.copytree(run, workdir)
  shutil.rmtree(workdir / 'checkpoints' / lost)
  return workdir


def stored_run(workdir, config=None, **changes):
  """Makes a run folder with a config.json only, of smoke() by default."""
  content: Any = folder.plain(smoke() if config is None else config)
  for path, value in changes.items():
    *parents, name = path.split('.')
    functools.reduce(dict.__getitem__, parents, content)[name] = value
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'config.json').write_text(json.dumps(content))
  return workdir


@pytest.fixture(scope='module')
def run(digits_run, tmp_path_factory):
  """Copies a finished digits:smoke run, which tests may change."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits-smoke'
  return shutil.copytree(digits_run, workdir)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """Makes a run of normal parameters, without a training."""
  workdir = tmp_path_factory.mktemp('runs') / 'plain'
  return untrained(smoke(), workdir, deviation=0.1)


@pytest.fixture(scope='session')
def autoencoder(tmp_path_factory):
  """Makes a run of a small autoencoder with normal parameters."""
  config = trial('digits_autoencoder', network=f'{SmallAutoencoder.__module__}:SmallAutoencoder')
  return untrained(config, tmp_path_factory.mktemp('runs') / 'autoencoder')
