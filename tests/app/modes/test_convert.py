"""--mode=convert, into a run and out of it, and training.start.run.

tests/app/kinds/test_few_steps.py trains with training.start.run.
"""

import dataclasses
import functools
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.config import folder
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.modes import MODES, convert
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import mode as train, setup
from diffusion_jax.interop import (
  diffusers,
  edm,
  edm2,
  names,
  openai,
  options,
  reader,
  score_sde,
  weight_files,
)
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import load
from tests.app.conftest import (
  SMALL,
  arrays_of,
  as_flags,
  assert_same,
  drawing_of,
  of_run,
  params_of,
  refused,
  smoke,
  trial,
  untrained,
  without_config,
)
from tests.app.fields import typed, within
from tests.app.small_network import SmallClassifier
from tests.interop import literal, test_openai
from tests.rows import slow

ONE_DEVICE = {'training.machine.mesh': (1, 1)}
ONE_LAYER = f'{SmallClassifier.__module__}:SmallClassifier'
STORED = Path(__file__).parents[2] / 'interop' / 'stored'


@functools.cache
def loaded(name):
  return diffusers.load(STORED / name)


def read(workdir, source, **changes):
  changes = {'convert.source': source} | changes
  MODES['convert'](without_config(**changes), workdir)
  return workdir


def write(workdir, to, out, **changes):
  changes = typed(f'convert.to={to} convert.out={out}') | changes
  MODES['convert'](of_run(workdir, **changes), str(workdir))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Makes a run of stored/labels, which no test changes."""
  return read(tmp_path_factory.mktemp('runs') / 'labels', STORED / 'labels')


def test_weights_become_a_run(run):
  """The run has both sets of parameters, checksums and a usable config."""
  expected = loaded('labels').params
  assert (run / 'checkpoints' / '0' / 'SHA256SUMS').is_file()
  for which in ('average', 'raw'):
    params, stored, _ = load.open(run, which, 0)
    assert_same(params['network'], expected)
  assert stored == folder.read_config(RunFolder.at(run))
  assert stored['data'] is None
  assert stored['facts']['x']['shape'] == [4, 4, 1]
  assert stored['facts']['x']['levels'] == 256
  assert stored['facts']['num_classes'] == 3
  few = ONE_DEVICE | typed('sampling.num_samples=3 sampling.num_steps=2 sampling.name=few')
  MODES['sample'](of_run(run, **few), str(run))
  pictures = arrays_of(run, 'few')
  assert pictures['arr_0'].shape == (3, 4, 4, 1)
  assert pictures['labels'].tolist() == [0, 1, 2]


# One of each kind.
OF_OPENAI = (
  'cifar10_uncond_50M_500K',
  'imagenet64_cond_270M_250K',
  'upsample_cond_500K',
  '64x64_diffusion',
  '64_256_upsampler',
  '64x64_classifier',
)


OF_EDM = options.models("""
  song model_type=SongUNet
  augmented song augment_dim=9
  labels song label_dim=10 label_dropout=0.1
  vp song precond=VPPrecond
  ncsnpp song encoder_type=residual embedding_type=fourier channel_mult_noise=2 \
    resample_filter=[1,3,3,1]
  ve ncsnpp precond=VEPrecond
  adm label_dim=1000
  iddpm label_dim=1000 precond=iDDPMPrecond
""")


def models_of_projects():
  """Yields (name, constructor) of each kind of model of a reader."""
  for name in OF_OPENAI:
    flags = openai.choose_flags(name)
    classes = 1000 if flags.class_cond or flags.classifier else 0
    yield name, functools.partial(openai.describe, flags, classes)
  for name in score_sde.MODELS:
    if ('ddpmpp' in name or 'ncsnpp_' in name) and 'deep' not in name:
      options = score_sde.choose_options(name, num_res_blocks=1)  # of 4, all alike
      yield name, functools.partial(score_sde.describe, options, score_sde.TORCH)
  for name, given in OF_EDM.items():
    chosen = edm.choose_options(img_resolution=32, **given)
    yield f'edm {name}', functools.partial(edm.describe, chosen)
  chosen = edm2.choose_options(img_resolution=64, label_dim=1000)
  yield 'edm2', functools.partial(edm2.describe, chosen)


THEIRS = dict(models_of_projects())


@pytest.mark.parametrize('name', THEIRS)
def test_a_config_with_the_sections_builds_the_network(name):
  theirs = THEIRS[name]()
  imported = reader.Imported(theirs.network, None, theirs.sections, theirs.facts)
  config = convert.config_of(without_config(), imported)
  model: Any = make_model(config, RunFolder.at('none'))
  model.check('convert')
  assert model.noisy.network == theirs.network.clone(dtype='float32')
  model.objective()
  if config.objective.name != 'classifier':
    levels = jax.eval_shape(lambda: model.plan().levels)
    assert len(levels.t) - 1 == config.sampling.grid.number


def test_a_run_goes_out_and_comes_back_bit_for_bit(run, tmp_path):
  out = tmp_path / 'out'
  write(run, 'diffusers', out)
  back, theirs = read(tmp_path / 'back', out), loaded('labels')
  assert_same(params_of(back)['network'], theirs.params)
  ours, theirs = (folder.read_config(RunFolder.at(x)) for x in (run, back))
  assert ours and theirs
  for name in (*ours.keys() - {'convert', 'optimizer'}, 'facts'):
    assert ours[name] == theirs[name]


def test_the_export_of_a_run_with_classes_says_what_its_pipeline_lacks(run, tmp_path, capsys):
  """Diffusers' pipeline gives no label, which its network asks for unless one is built in."""
  stored = json.loads((STORED / 'labels' / 'config.json').read_text())
  note = (
    'note: DDPMPipeline gives no class_labels, which this UNet2DModel needs in each call: '
    '--config.convert.label=3 builds class 3 into the weights'
  )
  for fields, classes in ({}, stored['num_class_embeds']), ({'convert.label': 0}, None):
    out = tmp_path / f'out{len(fields)}'
    write(run, 'diffusers', out, **fields)
    assert json.loads((out / 'unet' / 'config.json').read_text())['num_class_embeds'] == classes
    assert (note in capsys.readouterr().out) == (classes is not None)


def test_fields_of_a_users_own_come_back(tmp_path):
  """Our own file has the complete config; its parts must be allowed."""
  config = smoke(**typed('network.channels=4 schedule.num_steps=100'))
  run = untrained(config, tmp_path / 'run')
  out = tmp_path / 'out.safetensors'
  write(run, 'safetensors', out)
  back = read(tmp_path / 'back', out)
  ours, theirs = (folder.read_config(RunFolder.at(x)) for x in (run, back))
  assert ours and theirs
  assert theirs['network']['name'] == SMALL
  for name in (ours.keys() | theirs.keys()) - {*roles.USES}:
    assert theirs[name] == ours[name]
  assert_same(*(params_of(path) for path in (run, back)))
  message, seven = 'num_samples is 100, 7 now: this com', {'sampling.num_samples': 7}
  refused(message, read, tmp_path / 'seven', out, **seven)

  stored = json.loads(weight_files.read_metadata(out)['config'])
  stored['network']['name'] = 'tests.app.not_allowed:Network'
  tensors = weight_files.read_tensors(out)
  weight_files.write_safetensors(out, tensors, config=json.dumps(stored))
  message = 'add --allow=tests.app.not_allowed:Ne'
  refused(message, read, tmp_path / 'not_allowed', out)
  assert 'tests.app.not_allowed' not in sys.modules
  weight_files.write_safetensors(out, tensors, config='[' * 200_000)
  refused('convert.source: it is nested', read, tmp_path / 'not_allowed', out)
  assert not (tmp_path / 'not_allowed').exists()


def test_weights_of_openai_become_a_run(tmp_path):
  """Flags of OpenAI's networks are convert.options; the format must be given."""
  flags = f'{test_openai.FLAGS} class_cond=True resblock_updown=True'
  theirs = test_openai.make('guided', **options.of_text(flags))
  params = literal.random_like(theirs.shapes())
  path = tmp_path / 'mine.npz'
  np.savez(path, **names.write(theirs.table(), params))
  given = within('convert', format='openai', model='guided', options=flags)
  read(tmp_path / 'run', path, **given)
  assert_same(params_of(tmp_path / 'run')['network'], params)


@pytest.fixture(scope='module')
def autoencoder(tmp_path_factory):
  """Makes a run of stored/autoencoder, with latents of 2x2x4."""
  return read(tmp_path_factory.mktemp('runs') / 'ae', STORED / 'autoencoder')


def test_an_autoencoder_becomes_a_run_that_encodes(autoencoder, tmp_path):
  """tests/interop has what it computes."""
  theirs = diffusers.load(STORED / 'autoencoder')
  config = of_run(autoencoder)
  assert make_model(config, RunFolder.at(autoencoder)).network() == theirs.network.clone(
    dtype='float32'
  )
  assert_same(params_of(autoencoder)['network'], theirs.params)
  assert config.decoding.scale == 0.18215
  write(autoencoder, 'diffusers', tmp_path / 'out')
  name = 'diffusion_pytorch_model.safetensors'
  written = (tmp_path / 'out' / name).read_bytes()
  assert written == (STORED / 'autoencoder' / name).read_bytes()


def test_a_transformer_of_latents_becomes_a_run(autoencoder, tmp_path):
  """A DiT uses the latents of an autoencoder that was converted before."""
  shutil.copytree(autoencoder, tmp_path / 'ae')
  inputs = Inputs(num_classes=3, null_class=True)
  network = DiT(8, 2, 2, 1, 8, 'ho', inputs=inputs)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 4)), jnp.zeros(1))
  params = literal.random_like(shapes['params'])
  sections = diffusers.load(STORED / 'dit').sections
  facts = {'image_shape': (2, 2, 4)}
  diffusers.save(tmp_path / 'dit', network, params, sections, facts)
  index = {'transformer': ['diffusers', 'DiTTransformer2DModel']}
  index |= {'vae': ['diffusers', 'AutoencoderKL']}
  (tmp_path / 'dit' / 'model_index.json').write_text(json.dumps(index))

  run, dit = tmp_path / 'run', tmp_path / 'dit'
  untrained(smoke(), tmp_path / 'other')
  message = 'convert the AutoencoderKL of the same'
  refused(message, read, run, dit, **{'latent.run': tmp_path / 'other'})
  read(run, dit, **{'latent.run': tmp_path / 'ae'})
  shutil.rmtree(tmp_path / 'ae')  # the run keeps a copy
  assert_same(params_of(run)['network'], params)
  write(run, 'diffusers', tmp_path / 'out')
  assert_same(diffusers.load(tmp_path / 'out').params, params)


def test_init_from_another_network_or_the_run_itself_is_refused(run, tmp_path):
  """The refusal comes before the first state is compiled."""
  mine = shutil.copytree(run, tmp_path / 'mine')
  again = typed('data=synthetic data.image_shape=4,4,1 data.num_classes=3') | ONE_DEVICE
  again |= typed(f"""
    training.start.run={run} training.resume=force training.batch_size=2 training.sample_every=0
  """)
  config = store.with_flags(store.open_run(RunFolder.at(run)), [*as_flags(again)])
  refused('start.run=<this one>', MODES['train'], config, str(mine))
  config = smoke(**typed(f'training.start.run={run} network.channels=4'))
  parts = setup.prepare(config, RunFolder.at(tmp_path / 'x'))
  parts = dataclasses.replace(parts, make_state=pytest.fail)
  message = 'start.run: .* is of another network'
  refused(message, train.restore, parts)


def test_a_sampler_runs_without_this_package(plain, tmp_path, monkeypatch):
  """The program draws the same images as --mode=sample."""
  out = tmp_path / 'out'
  changes = typed('sampling.num_steps=2 sampling.batch_size=3')
  write(plain, 'stablehlo', out, **changes)
  drawing = drawing_of(of_run(plain, **ONE_DEVICE | changes), plain)
  expected = drawing(np.arange(4, 7), {'label': np.zeros(3, np.int32)})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['run.py', '4'])
  runpy.run_path(str(out / 'run.py'))
  assert_allclose(np.load('images.npy'), expected, atol=1e-5)
  assert np.ptp(expected) > 0.1
  stored = bytearray((out / 'sampler.stablehlo').read_bytes())
  program = export.deserialize(stored)
  assert program.platforms == ('cpu', 'cuda', 'tpu')


@pytest.mark.parametrize('name', ['two_moons', slow('joint')])
def test_a_program_of_numbers_is_in_their_units(name, tmp_path, monkeypatch, capsys):
  """An exported program takes a context and returns x as --mode=sample does, but for the box."""
  config = trial(name, **typed('data.num_examples=100 data.num_test=16 data.bounds=-1.0,1.0'))
  run = untrained(config, tmp_path / 'run', 0.05)
  changes = typed('sampling.checkpoint=latest sampling.batch_size=3 sampling.sampler=ddim')
  write(run, 'stablehlo', tmp_path / 'out', **changes)
  printed = ' '.join(capsys.readouterr().out.split())
  box = 'is outside of data.bounds, low=(-1.0, -1.0), high=(1.0, 1.0), and this'
  script = (tmp_path / 'out/run.py').read_text()
  for text in printed, script:
    assert "in the data's units" in text and box in text

  config = of_run(run, **ONE_DEVICE | changes)
  model = make_model(config, RunFolder.at(run))
  context = conditions.Contexts(model)
  rows = np.array([[-0.2, 0.4], [0.1, -0.3], [0.0, 0.2]], np.float32)
  if name == 'joint':
    rows = np.concatenate([np.full((3, 2), np.nan, np.float32), rows], axis=1)
  index = np.arange(4, 7)
  x = drawing_of(config, run)(index, context.encode(rows, np.arange(3)))
  expected = model.facts.x.decode(x)
  if name == 'joint':
    expected[:, 2:] = rows[:, 2:]
  assert np.abs(expected - x).max() > 0.1  # The units matter.
  stored = bytearray((tmp_path / 'out/sampler.stablehlo').read_bytes())
  saved = weight_files.read_tensors(tmp_path / 'out/weights.safetensors')
  found = export.deserialize(stored).call(saved, np.int32(index), {context.name: rows})
  assert_allclose(found, expected, atol=1e-5)
  if name == 'joint':  # exact, not to the rounding of the units
    assert_array_equal(found[:, 2:], rows[:, 2:])
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['run.py'])
  runpy.run_path(str(tmp_path / 'out/run.py'))  # at the context 0, or nothing known
  assert np.isfinite(np.load('images.npy')).all()


@pytest.mark.parametrize(
  'to, name, changes, message',
  [
    ('stablehlo', 'digits_classifier', {'network': ONE_LAYER}, 'must be sown once'),
    ('diffusers', 'digits_meanflow', {}, 'has no pipeline of this model'),
  ],
)
def test_other_kinds_of_models_are_not_written(to, name, changes, message, tmp_path):
  run = untrained(trial(name, **changes | {'sampling.checkpoint': 'latest'}), tmp_path / 'run')
  refused(message, write, run, to, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
