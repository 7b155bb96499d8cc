"""What all readers of weights have in common; each project has its own file."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.interop import (
  diffusers,
  diffusers_autoencoder,
  edm,
  edm2,
  names,
  openai,
  score_sde,
)
from diffusion_jax.interop.layers import entries
from diffusion_jax.networks.magnitude import Uncertainty
from tests.interop.test_diffusers import STORED, WEIGHTS
from tests.interop.test_edm import SONG
from tests.interop.test_edm2 import OPTIONS
from tests.interop.test_openai import FLAGS, make, random_like
from tests.interop.test_score_sde import MODEL, TINY

AUTOENCODER = STORED / 'autoencoder'
HEAD = jax.eval_shape(Uncertainty(6).init, jax.random.key(0), jnp.zeros(1))


def read_edm2(folder, tensors, **more):
  """Its file also has the weights of u(sigma)."""
  table = entries(edm2.LOGVAR, HEAD['params'])
  head = names.write(table, random_like(HEAD['params']))
  return edm2.from_tensors({**head, **tensors}, **OPTIONS | more)


def read_diffusers(folder, tensors, **more):
  """The options are in config.json."""
  shutil.copytree(AUTOENCODER, folder, dirs_exist_ok=True)
  safetensors.numpy.save_file(dict(tensors), folder / WEIGHTS)
  return diffusers.load(folder, **more)


# A network without weights, and (folder, tensors, **options) -> `Imported`.
READERS = {
  'openai': (
    make('guided', **FLAGS),
    lambda _, x, **more: openai.from_tensors(x, 'guided', **FLAGS | more),
  ),
  'score_sde': (
    score_sde.describe(
      score_sde.choose_options(MODEL, **TINY), score_sde.TORCH
    ),
    lambda _, x, **more: score_sde.from_tensors(
      x, MODEL, ema=False, **TINY | more
    ),
  ),
  'edm': (
    edm.describe(edm.choose_options(**SONG)),
    lambda _, x, **more: edm.from_tensors(x, **SONG | more),
  ),
  'edm2': (edm2.describe(edm2.choose_options(**OPTIONS)), read_edm2),
  'diffusers': (
    diffusers_autoencoder.describe(
      json.loads((AUTOENCODER / 'config.json').read_text())
    ),
    read_diffusers,
  ),
}


@pytest.mark.parametrize('project', READERS)
def test_what_is_written_is_read_and_the_rest_is_named(project, tmp_path):
  model, read = READERS[project]
  params = random_like(model.shapes())
  tensors = names.write(model.table(), params)
  found = read(tmp_path, tensors)
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert found.network == model.network and found.sections == model.sections

  last = list(tensors)[-1]
  rest = {name: x for name, x in tensors.items() if name != last}
  more = {'more': np.zeros(1, np.float32)}
  other = {last: np.zeros((7, *np.shape(tensors[last])), np.float32)}
  for given, options, message in (
    (tensors, {'width': 3}, r'^unknown options of [\w/]+: width'),
    (rest, {}, f'missing: {last}$'),
    (tensors | more, {}, 'not used: more'),
    (rest | other, {}, rf'of another shape: {last} \(7'),
  ):
    with pytest.raises(ValueError, match=message) as error:
      read(tmp_path, given, **options)
    assert '\n' not in str(error.value)
