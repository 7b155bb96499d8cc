"""Runs of digits:smoke with a small network, for tests of the application."""

import contextlib
import functools
import io
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.config import own, store
from diffusion_jax.app.run import folder
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.training import checkpoints
from tests.app.small_network import SmallNetwork

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = f'{SmallNetwork.__module__}:SmallNetwork'
SEEN = {
  'training.sample_every': 4,
  'training.evaluate_every': 2,
  'report.after_training': True,
}


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


def lines_of(workdir, name=''):
  """Returns the lines of metrics.jsonl, or the values of one metric."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  return [line[name] for line in lines if name in line] if name else lines


def as_flags(changes):
  """Yields fields and their values in the form of flags."""
  for path, value in changes.items():
    if isinstance(value, (tuple, list)):
      value = ','.join(map(str, value))
    yield path, str(value)


@functools.cache
def _shrunk(name, argument, small):
  # Reading and completing a config takes longer than many tests.
  config = store.from_file(str(CONFIGS / f'{name}.py'), argument)
  config = shrunk(store.completed(config))
  fewer = {
    'training.mesh': (1, 1),
    'training.sample_every': 0,
    'training.evaluate_every': 0,
  }
  if small:
    fewer |= {'network': SMALL, 'network.channels': 8}
  return store.with_flags(config, [*as_flags(fewer)])


def trial(name='digits', argument='', small=False, **changes) -> Any:
  """The trial of a config, with fields changed; small: with SmallNetwork.

  On one of the eight simulated devices, without previews and evaluations while
  it trains (`SEEN` has them).
  """
  config = _shrunk(name, argument, small)
  own.allow(own.names_in(config))
  return store.with_flags(config, [*as_flags(changes)])


def smoke(**changes) -> Any:
  """digits:smoke with a network whose training takes a third of the time.

  The comparison is with a U-Net whose programs are in the cache.
  """
  if 'network' in changes:
    changes = {'network.channels': 8} | changes
  return trial(small=True, **changes)


def unet_smoke(**changes) -> Any:
  """Returns the same config with its own network, at one resolution."""
  fewer = {
    'network.multipliers': (1,),
    'network.attention_resolutions': (),
    'network.middle_attention': 'none',
  }
  return trial(**fewer | changes)


def normal_params(model, seed=0, deviation=0.2):
  """Returns random parameters; in new parameters the last layer is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (deviation * rng.standard_normal(x.shape)).astype(x.dtype),
    models.shapes(model),
  )


def untrained(config, workdir, deviation=0.2):
  """Makes a run folder of normal parameters, without a training."""
  model = models.make(config, workdir)
  params = normal_params(model, deviation=deviation)
  workdir = make_folder(workdir)
  folder.write_config(workdir, config, model.facts)
  stored = folder.stored_form(config, model.facts)
  checkpoints.save_params(workdir, config.training.num_steps, params, stored)
  return workdir


@pytest.fixture
def config():
  return smoke()


@pytest.fixture(scope='module')
def run(digits_run, tmp_path_factory):
  """Copies a finished digits:smoke run, which tests may change."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits-smoke'
  return shutil.copytree(digits_run, workdir)
