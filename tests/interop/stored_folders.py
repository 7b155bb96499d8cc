"""The folders of diffusers in stored/, as they are and changed."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
from numpy.testing import assert_array_equal

from diffusion_jax.interop import diffusers
from tests.refusals import one_line

STORED = Path(__file__).parent / 'stored'
WEIGHTS = 'diffusion_pytorch_model.safetensors'
CONFIG, SCHEDULER = 'config.json', 'scheduler_config.json'


def loaded(name):
  with np.load(STORED / name / 'expected.npz') as arrays:
    return diffusers.load(STORED / name), dict(arrays)


def same(ours, expected):
  jax.tree.map(assert_array_equal, ours, expected)


def refused(path, message, **options):
  with one_line(match=message):
    diffusers.load(path, **options)


def folder_with(top, name='ho', file=CONFIG, **changes):
  shutil.copytree(STORED / name, top / name, dirs_exist_ok=True)
  path = top / name / file
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  return top / name
