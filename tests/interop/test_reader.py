"""What all readers of weights have in common; each project has its own file."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from diffusion_jax.interop import (
  diffusers,
  diffusers_autoencoder,
  edm,
  edm2,
  names,
  openai,
  score_sde,
)
from diffusion_jax.interop.names import entries
from diffusion_jax.networks.edm2 import Uncertainty
from tests import refusals
from tests.interop.literal import random_like
from tests.interop.stored_folders import STORED, WEIGHTS, same
from tests.interop.test_edm import ADM, SONG
from tests.interop.test_edm2 import OPTIONS
from tests.interop.test_openai import GUIDED, make
from tests.interop.test_score_sde import MODEL, TINY, describe as of_sde

AUTOENCODER = STORED / 'autoencoder'
CONFIG = json.loads((AUTOENCODER / 'config.json').read_text())


@functools.cache
def head():
  """Returns the weights of u(sigma) by their names."""
  init = jax.eval_shape(Uncertainty(6).init, jax.random.key(0), jnp.zeros(1))
  return names.write(entries(edm2.LOGVAR, init['params']), random_like(init['params']))


def read_edm2(tensors, **options):
  """A file of EDM2 also has the weights of u(sigma)."""
  return edm2.from_tensors({**head(), **tensors}, **OPTIONS | options)


def read_diffusers(tensors, **options):
  """The other options are in config.json."""
  with tempfile.TemporaryDirectory() as folder:
    shutil.copytree(AUTOENCODER, folder, dirs_exist_ok=True)
    safetensors.numpy.save_file(dict(tensors), Path(folder) / WEIGHTS)
    return diffusers.load(folder, **options)


def of_edm(**options):
  return edm.describe(edm.choose_options(**options))


partial = functools.partial
OF_EDM, OF_ADM = (partial(edm.from_tensors, **o) for o in (SONG, ADM))


def OPENAI(tensors, **flags):
  return openai.from_tensors(tensors, 'guided', **flags)


def SCORE(tensors, model=MODEL, **options):
  return score_sde.from_tensors(tensors, model, **{**TINY, **options})


# () -> a network without weights, and (tensors, **options) -> `Imported`.
READERS = {
  'openai': (partial(make, 'guided', 7, **GUIDED), partial(OPENAI, **GUIDED)),
  'score_sde': (partial(of_sde, score_sde.TORCH, **TINY), partial(SCORE, ema=False)),
  'edm': (partial(of_edm, **SONG), OF_EDM),
  'edm2': (lambda: edm2.describe(edm2.choose_options(**OPTIONS)), read_edm2),
  'diffusers': (partial(diffusers_autoencoder.describe, CONFIG), read_diffusers),
}


@pytest.mark.parametrize('project', READERS)
def test_what_is_written_is_read_and_the_rest_is_named(project):
  describe, read = READERS[project]
  model = describe()
  params = random_like(model.shapes())
  tensors = names.write(model.table(), params)
  found = read(tensors)
  jax.tree.map(same, found.params, params)
  assert found.network == model.network and found.sections == model.sections

  last = list(tensors)[-1]
  rest = {name: x for name, x in tensors.items() if name != last}
  more = {'more': np.zeros(1, np.float32)}
  halved = {name: x.astype(np.float16) for name, x in tensors.items()}
  single = {name: x.astype(np.float32) for name, x in halved.items()}
  found = read(halved).params
  jax.tree.map(same, found, read(single).params)
  assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}
  whole = {last: np.ones(np.shape(tensors[last]), np.int64)}
  other = {last: np.zeros((7, *np.shape(tensors[last])), np.float32)}
  for given, options, message in (
    (tensors, {'width': 3}, r'^unknown options of [\w/]+: width'),
    (rest, {}, f'missing: {last}$'),
    (tensors | more, {}, 'not used: more'),
    (rest | whole, {}, rf'not real numbers: {last} \(int64\)$'),
    (rest | other, {}, rf'of another shape: {last} \(7'),
  ):
    with refusals.one_line(match=message):
      read(given, **options)


def check_names(table, shapes):
  """Returns the sizes of the parameters, each with a name of its own."""
  paths = set(traverse_util.flatten_dict(shapes, sep='/'))
  assert {entry.ours for entry in table} == paths
  assert len({entry.theirs for entry in table}) == len(table) == len(paths)
  return [x.size for x in jax.tree.leaves(shapes)]


# In millions: recipes 0, the READMEs and names of the releases, and Dhariwal &
# Nichol 2021, tables 11 and 12.
PUBLISHED = {
  'cifar10_uncond_50M_500K': 52.546438,
  'imagenet64_uncond_100M_1500K': 121.063942,
  'imagenet64_cond_270M_250K': 270, 'upsample_cond_500K': 280,
  '64x64_diffusion': 295.904454, '128x128_diffusion': 422,
  '256x256_diffusion': 554, '256x256_diffusion_uncond': 552.814086,
  '512x512_diffusion': 559, '64_256_upsampler': 312, '128_512_upsampler': 309,
  'lsun_bedroom': 552, '64x64_classifier': 65, '128x128_classifier': 43,
  '256x256_classifier': 54, '512x512_classifier': 54,
}  # fmt: skip
# One of each kind is quick; the next test has 64x64_diffusion's size to the last parameter.
KINDS = 'cifar10_uncond_50M_500K', '64x64_classifier'
CIFAR10 = dict(
  model_type='SongUNet', img_resolution=32, channel_mult=[2, 2, 2], augment_dim=9, dropout=0.13
)
LARGER = TINY | dict(ch_mult=(1, 1, 2), num_res_blocks=2)


@pytest.mark.parametrize(
  'describe, millions',
  [
    *(
      pytest.param(
        partial(make, model), count, id=model, marks=[] if model in KINDS else pytest.mark.slow
      )
      for model, count in PUBLISHED.items()
    ),
    (partial(of_edm, **CIFAR10, label_dim=10), 55.735299),
    *(
      (partial(of_sde, style, MODEL, **LARGER), None) for style in (score_sde.TORCH, score_sde.FLAX)
    ),
  ],
)
def test_every_parameter_has_a_name_and_there_are_as_many(describe, millions):
  model = describe()
  sizes = check_names(model.table(), model.shapes())
  if millions is not None:
    tolerance = 1e-7 if isinstance(millions, float) else 3.1 if millions in (270, 552) else 0.51
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=tolerance)


def test_edms_network_of_imagenet_64_is_guided_diffusions():
  """recipes 0: it has 295,899,267 parameters; the last layer has 3 outputs."""
  theirs = make('64x64_diffusion')
  ours = of_edm(img_resolution=64, label_dim=1000)
  changed = dict(qkv='interleaved', out_channels=3, downsample_padding='same')
  assert ours.network == theirs.network.clone(**changed)
  shapes = theirs.shapes()
  sizes = check_names(entries(ours.layers, shapes), shapes)
  assert sum(sizes) - 3 * (3 * 3 * 192 + 1) == 295_899_267


WRONG = [
  (lambda: OPENAI({}, num_heads_upsample=2), 'guided: num_heads_upsample=2 has no'),
  (lambda: OPENAI({}, classifier_pool='spatial'), "classifier_pool='spatial' has"),
  (lambda: OPENAI({}, noise_schedule='sqrt'), "noise_schedule='sqrt' has no count"),
  (lambda: OPENAI({}, large_size=8), 'both flags large_size and small_size'),
  (lambda: OPENAI({}, large_size=8, small_size=3), 'large_size=8 ... of ... 3'),
  (lambda: OPENAI({}, class_cond='yes'), "class_cond='yes' must be True or False"),
  (lambda: OPENAI({}, dropout='a'), "guided: the option dropout='a' must be a num"),
  (lambda: OPENAI({}, channel_mult='a,b'), "channel_mult='a,b' must be numbers, s"),
  (lambda: OPENAI({}, image_size=96), 'image_size=96 has no counterpart here: giv'),
  (lambda: SCORE({}, model='ddpmpp'), "the model 'ddpmpp' is not one of vp/cifar1"),
  (lambda: SCORE({}, model='ve/cifar10_ncsnpp'), 'continuous=False has no ... here'),
  (lambda: SCORE({}, model='vp/cifar10_ddpm'), "cifar10_ddpm: name='ddpm' has no"),
  (
    lambda: SCORE({}, model='ve/cifar10_ncsnpp_continuous', progressive='output_skip'),
    "='output_skip' has no",
  ),
  (lambda: SCORE({}, embedding_type='fourier'), "='fourier' has no c"),
  (
    lambda: SCORE({}, model='ve/cifar10_ncsnpp_continuous', fir=False),
    'fir=False has no ... here: it can be T',
  ),
  (
    lambda: SCORE({}, model='ve/cifar10_ncsnpp_continuous', scale_by_sigma=False),
    'scale_by_sigma=False has n',
  ),
  (lambda: OF_EDM({}, encoder_type='skip'), "SongUNet: encoder_type='skip' has no"),
  (lambda: OF_EDM({}, embedding_type='fourier'), 'channel_mult_noise=1 ... can be'),
  (lambda: OF_EDM({}, model_type='EDM2'), "'EDM2' has no counterpart here: it can"),
  (lambda: OF_EDM({}, precond='VEPrecond'), 'augment_dim=9 has no ... can be 0'),
  (
    lambda: OF_EDM({}, precond='VEPrecond', augment_dim=0, label_dim=0),
    "embedding_type='positional' has no ... it can be 'fourier'",
  ),
  (lambda: OF_EDM({}, precond='Precond'), "'Precond' ... it can be 'EDMPrecond' or"),
  (lambda: OF_EDM({}, img_resolution=0), 'img_resolution=0 ... it is missing'),
  (lambda: OF_ADM({}, augment_dim=9), 'DhariwalUNet: augment_dim=9 has no counter'),
  (lambda: OF_ADM({}, model_channels=64), 'model_channels=64 ... norms have fewer'),
  (lambda: OF_ADM({}, precond='VEPrecond', label_dim=0), "precond='VEPrecond' has"),
  (lambda: read_edm2({}, res_balance=0.5), 'EDM2: res_balance=0.5 has no counterpar'),
  (lambda: read_edm2({}, img_channels=4), 'img_channels=4 ... : EDM2 normalises each'),
  (lambda: read_edm2({}, img_resolution=0), 'img_resolution=0 ... it is missing'),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows(ValueError, WRONG)])
def test_options_that_have_no_counterpart(error, call, message):
  with refusals.one_line(error=error, match=message):
    call()
