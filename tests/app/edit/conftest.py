"""Edits of tiny pictures, with few steps."""

import itertools

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app.modes import MODES
from diffusion_jax.data import small_sets
from tests.app.conftest import DIGITS, arrays_of, smoke
from tests.app.fields import typed

QUICK = typed("""
  training.num_steps=1 training.checkpoints.every=1 sampling.num_steps=3 sampling.batch_size=4
  optimizer.warmup_steps=0 edit.num_samples=2
""")
NUMBERS = itertools.count()


def edited(config, workdir):
  """Edits; returns the arrays of the npz file."""
  MODES['edit'](config, workdir)
  return arrays_of(workdir, config.edit.output, 'edits')


def run(workdir, files, changes=(), **fields):
  """Edits; values of `fields` are names of files. Returns the arrays."""
  paths = {f'edit.{k}': str(files / f'{v}.png') for k, v in fields.items()}
  name = {'edit.output': f'edit{next(NUMBERS)}', 'sampling.sampler.eta': 0}
  return edited(smoke(**QUICK | paths | name | dict(changes)), workdir)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Writes a digit, a mask, and pictures of another size and colours."""
  folder = tmp_path_factory.mktemp('pictures')
  digit = DIGITS.x.decode(DIGITS.x.encode(small_sets.digits('test').x[0]))[..., 0]
  colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  pictures = {
    'digit': digit,
    'odd': colours[..., 0],  # grey levels that digits do not have
    'mask': np.repeat(np.uint8([255, 0]), 32).reshape(8, 8),
    'small': digit[::2, ::2],
    'colours': colours,
  }
  for name, picture in pictures.items():
    Image.fromarray(picture).save(folder / f'{name}.png')
  return folder


def picture(files, name):
  with Image.open(files / f'{name}.png') as file:
    return np.asarray(file)
