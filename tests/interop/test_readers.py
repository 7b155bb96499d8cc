"""What all readers of weights have in common; each project has its own file.

test_diffusers.py has the refusals of its folders.
"""

import functools
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
from tests.interop.literal import random_like
from tests.interop.test_diffusers import STORED, WEIGHTS
from tests.interop.test_edm import ADM, SONG
from tests.interop.test_edm2 import OPTIONS
from tests.interop.test_openai import FLAGS, make
from tests.interop.test_score_sde import MODEL, TINY, VE

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


GUIDED = functools.partial(openai.from_tensors, {}, 'guided')
SCORE = functools.partial(score_sde.from_tensors, {})
OF_EDM, OF_ADM, OF_EDM2 = (
  functools.partial(reader.from_tensors, {}, **options)
  for reader, options in ((edm, SONG), (edm, ADM), (edm2, OPTIONS))
)


@pytest.mark.parametrize(
  'read, options, message',
  [
    (GUIDED, dict(num_heads_upsample=2), 'guided: num_heads_upsample=2 has no'),
    (GUIDED, dict(classifier_pool='spatial'), "classifier_pool='spatial' has"),
    (GUIDED, dict(noise_schedule='sqrt'), "noise_schedule='sqrt' has no count"),
    (GUIDED, dict(large_size=8), 'both flags large_size and small_size'),
    (GUIDED, dict(large_size=8, small_size=3), 'large_size=8 .* of .* 3$'),
    (GUIDED, dict(class_cond='yes'), "class_cond='yes' must be True or False"),
    (GUIDED, dict(dropout='a'), "guided: the option dropout='a' must be a num"),
    (GUIDED, dict(channel_mult='a,b'), "channel_mult='a,b' must be numbers, s"),
    (GUIDED, dict(image_size=96), 'image_size=96 has no counterpart here: giv'),
    (SCORE, dict(model='ddpmpp'), "the model 'ddpmpp' is not one of vp/cifar1"),
    (SCORE, dict(model='ve/cifar10_ncsnpp'), 'continuous=False has no .* here'),
    (SCORE, dict(model='vp/cifar10_ddpm'), "cifar10_ddpm: name='ddpm' has no"),
    (SCORE, dict(model=VE, progressive='output_skip'), "='output_skip' has no"),
    (SCORE, dict(model=MODEL, embedding_type='fourier'), "='fourier' has no c"),
    (SCORE, dict(model=VE, fir=False), 'fir=False has no .* here: it can be T'),
    (SCORE, dict(model=VE, scale_by_sigma=False), 'scale_by_sigma=False has n'),
    (OF_EDM, dict(encoder_type='skip'), "SongUNet: encoder_type='skip' has no"),
    (OF_EDM, dict(embedding_type='fourier'), 'channel_mult_noise=1 .* can be'),
    (OF_EDM, dict(model_type='EDM2'), "'EDM2' has no counterpart here: it can"),
    (OF_EDM, dict(precond='VEPrecond'), 'augment_dim=9 has no .* can be 0'),
    (
      OF_EDM,
      dict(precond='VEPrecond', augment_dim=0, label_dim=0),
      "embedding_type='positional' has no .* it can be 'fourier'",
    ),
    (OF_EDM, dict(precond='Precond'), "'Precond' .* it can be 'EDMPrecond' or"),
    (OF_EDM, dict(img_resolution=0), 'img_resolution=0 .* it is missing'),
    (OF_ADM, dict(augment_dim=9), 'DhariwalUNet: augment_dim=9 has no counter'),
    (OF_ADM, dict(model_channels=64), 'model_channels=64 .* norms have fewer'),
    (OF_ADM, dict(precond='VEPrecond', label_dim=0), "precond='VEPrecond' has"),
    (OF_EDM2, dict(res_balance=0.5), 'EDM2: res_balance=0.5 has no counterpar'),
    (OF_EDM2, dict(img_channels=4), 'img_channels=4 .*: EDM2 normalises each'),
    (OF_EDM2, dict(img_resolution=0), 'img_resolution=0 .* it is missing'),
  ],
)
def test_options_that_have_no_counterpart(read, options, message):
  with pytest.raises(ValueError, match=message):
    read(**options)
