"""--mode=convert, into a run and out of it, and training.init_from."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from configs import run as run_of
from diffusion_jax.build import audit, own_parts
from diffusion_jax.data.images import write_png
from diffusion_jax.errors import UserError
from diffusion_jax.interop import diffusers, names
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.runs import first_weights, run_folder
from diffusion_jax.training import checkpoints
from tests.build import toy_parts
from tests.interop import test_openai
from tests.programs.conftest import smoke, untrained

STORED = Path(__file__).parent.parent / 'interop' / 'stored'


def convert(workdir, **changes):
  config = run_of.get_config()
  config.update_from_flattened_dict(changes)
  PROGRAMS['convert'](config, str(workdir))


def converted(workdir, name='labels'):
  source = {'convert.source': str(STORED / name)}
  convert(workdir, **source | {'data.num_levels': 17})
  return workdir


def config_of(workdir, **changes):
  """As --config=configs/run.py:<workdir> gives it."""
  config: Any = run_of.get_config(str(workdir))
  config.training.mesh = (1, 1)
  config.update_from_flattened_dict(changes)
  return config


def same(ours, expected):
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of stored/labels, which no test changes."""
  return converted(tmp_path_factory.mktemp('runs') / 'labels')


def test_weights_become_a_run(run):
  """With both sets of parameters, checksums, and a config that samples."""
  expected = diffusers.load(STORED / 'labels').params
  assert (run / 'checkpoints' / '0' / 'SHA256SUMS').is_file()
  for ema in (True, False):
    params, stored = checkpoints.restore_params(run, ema, checkpoint=0)
    same(params['network'], expected)
  assert stored == run_folder.read_config(run)
  assert stored['data']['num_classes'] == 3
  few = {'sampling.num_samples': 3, 'sampling.num_steps': 2}
  PROGRAMS['sample'](config_of(run, **few), str(run))
  pictures = np.load(run / 'samples' / 'samples.npz')
  assert pictures['arr_0'].shape == (3, 4, 4, 1)
  assert pictures['labels'].tolist() == [0, 1, 2]


def test_fields_of_a_users_own_come_back(tmp_path):
  """configs/base.py has no network.width."""
  names = {
    'network.name': f'{toy_parts.__name__}:Network',
    'conditioning.labels': False,
    'conditioning.dropout': 0.0,
  }
  own_parts.allow([names['network.name']])
  config = smoke(**names)
  audit.drop_unused(config, audit.DIRECT)
  config.network.width = 3
  run, out = untrained(config, tmp_path / 'run'), tmp_path / 'out.safetensors'
  config.convert.to, config.convert.out = 'safetensors', str(out)
  PROGRAMS['convert'](config, str(run))
  convert(tmp_path / 'back', **{'convert.source': str(out)})
  stored = run_folder.read_config(tmp_path / 'back') or {}
  assert stored['network']['width'] == 3
  params = [
    checkpoints.restore_params(path)[0] for path in (run, tmp_path / 'back')
  ]
  same(*params)


@pytest.mark.parametrize('to', ['diffusers', 'safetensors'])
def test_a_run_goes_out_and_comes_back_bit_for_bit(run, to, tmp_path):
  out = tmp_path / 'out.safetensors'
  config = config_of(run, **{'convert.to': to, 'convert.out': str(out)})
  PROGRAMS['convert'](config, str(run))
  convert(tmp_path / 'back', **{'convert.source': str(out)})
  params, _ = checkpoints.restore_params(tmp_path / 'back')
  same(params['network'], diffusers.load(STORED / 'labels').params)
  ours, back = map(run_folder.read_config, (run, tmp_path / 'back'))
  for section in ('schedule', 'network', 'conditioning', 'objective'):
    assert ours[section] == back[section]
  with pytest.raises(UserError, match='exists already'):
    PROGRAMS['convert'](config, str(run))


def test_weights_of_openai_become_a_run(tmp_path):
  """Their flags are convert.options; the format is not to be guessed."""
  flags = test_openai.FLAGS
  _, _, shapes, table = test_openai.make('guided', **flags)
  params = test_openai.random_like(shapes)
  path = tmp_path / 'mine.npz'
  np.savez(path, **names.write(table, params))
  options = ' '.join(f'{name}={x!r}' for name, x in flags.items())
  convert(tmp_path / 'run', **{
    'convert.source': str(path),
    'convert.format': 'openai',
    'convert.model': 'guided',
    'convert.options': options,
  })  # fmt: skip
  found, _ = checkpoints.restore_params(tmp_path / 'run')
  same(found['network'], params)


@pytest.fixture(scope='module')
def autoencoder(tmp_path_factory):
  """A run of stored/autoencoder, of latents of 2x2x4."""
  return converted(tmp_path_factory.mktemp('runs') / 'ae', 'autoencoder')


def test_an_autoencoder_becomes_a_run_that_encodes(autoencoder, tmp_path):
  from diffusion_jax import build

  run = autoencoder
  config = run_folder.run_config(run, run_of.get_config())
  network = build.build_network(config)
  expected = np.load(STORED / 'autoencoder' / 'expected.npz')
  params, _ = checkpoints.restore_params(run)
  encode = jax.jit(functools.partial(network.apply, method='encode'))
  mean, _ = encode({'params': params['network']}, expected['x'])
  np.testing.assert_allclose(mean, expected['mean'], rtol=1e-4, atol=1e-4)
  assert config.latent.scale == 0.18215
  out = {'convert.to': 'diffusers', 'convert.out': str(tmp_path / 'out')}
  PROGRAMS['convert'](config_of(run, **out), str(run))
  name = 'diffusion_pytorch_model.safetensors'
  written = (tmp_path / 'out' / name).read_bytes()
  assert written == (STORED / 'autoencoder' / name).read_bytes()


def test_a_transformer_of_latents_becomes_a_run(autoencoder, tmp_path):
  """A DiT, in the latents of an autoencoder that was converted before."""
  shutil.copytree(autoencoder, tmp_path / 'ae')
  network = DiT(8, 2, 2, 1, 8, 'ho', num_classes=3, null_class=True)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 2, 2, 4)), jnp.zeros(1)
  )
  params = test_openai.random_like(shapes['params'])
  fields = diffusers.load(STORED / 'dit').fields
  size = {'data.image_shape': (2, 2, 4), 'sampling.variance': 'learned'}
  diffusers.save(tmp_path / 'dit', network, params, fields | size)
  index = {
    'transformer': ['diffusers', 'DiTTransformer2DModel'],
    'vae': ['diffusers', 'AutoencoderKL'],
  }
  (tmp_path / 'dit' / 'model_index.json').write_text(json.dumps(index))
  given: Any = {'convert.source': str(tmp_path / 'dit')}

  with pytest.raises(UserError, match='convert the AutoencoderKL of the same'):
    convert(tmp_path / 'run', **given, **{'latent.run': str(tmp_path)})
  convert(tmp_path / 'run', **given, **{'latent.run': str(tmp_path / 'ae')})
  few = {
    'sampling.num_samples': 3,
    'sampling.num_steps': 2,
    'sampling.sampler': 'ddim',
  }
  shutil.rmtree(tmp_path / 'ae')  # the run keeps a copy
  config = config_of(tmp_path / 'run', **few)
  PROGRAMS['sample'](config, str(tmp_path / 'run'))
  pictures = np.load(tmp_path / 'run' / 'samples' / 'samples.npz')
  assert pictures['arr_0'].shape == (3, 4, 4, 1)
  same(checkpoints.restore_params(tmp_path / 'run')[0]['network'], params)


def test_a_training_begins_with_the_weights_of_a_run(
  digits_run, tmp_path, capsys
):
  few = {
    'training.init_from': str(digits_run),
    'training.num_steps': 1,
    'optimizer.warmup_steps': 0,
    'optimizer.learning_rate': 1e-30,
  }
  PROGRAMS['train'](smoke(**few), str(tmp_path / 'fine'))
  expected, _ = checkpoints.restore_params(digits_run)
  params, stored = checkpoints.restore_params(tmp_path / 'fine', False)
  same(params, expected)
  assert stored['training']['init_from'] == str(digits_run)
  leaves = len(jax.tree.leaves(params))
  assert f'{leaves} of {leaves} leaves\n' in capsys.readouterr().out


def test_converted_weights_begin_another_run(run, tmp_path):
  shutil.copytree(run, tmp_path / 'mine')
  again = {
    'training.init_from': str(run),
    'training.batch_size': 2,
    'training.resume': 'force',
    'data.name': 'synthetic',
    'data.num_levels': 256,
  }
  with pytest.raises(UserError, match='init_from=<this one>'):
    PROGRAMS['train'](config_of(run, **again), str(tmp_path / 'mine'))


@pytest.mark.slow
def test_a_training_begins_with_converted_weights(run, tmp_path, capsys):
  """Of other data; no images and labels of this size exist here but these.

  Slow to compile: that weights of a run begin another, and how converted ones
  are placed in a new state, the tests before and after show.
  """
  few = {
    'training.init_from': str(run),
    'training.num_steps': 1,
    'training.batch_size': 2,
    'training.sample_every': 0,
    'optimizer.learning_rate': 1e-30,
    'data.name': 'synthetic',
    'data.num_levels': 256,
  }
  config = config_of(run, **few)
  PROGRAMS['train'](config, str(tmp_path / 'fine'))
  params, stored = checkpoints.restore_params(tmp_path / 'fine', False)
  same(params['network'], diffusers.load(STORED / 'labels').params)
  assert stored['training']['init_from'] == str(run)
  leaves = len(jax.tree.leaves(params))
  assert f'{leaves} of {leaves} leaves\n' in capsys.readouterr().out


def test_other_classes_and_channels_begin_afresh(run, capsys):
  """The leaves that do not fit are named with both shapes."""
  from diffusion_jax.programs import train

  config = config_of(
    run, **{'data.num_classes': 5, 'data.image_shape': (4, 4, 3)}
  )
  mesh = train.build.build_mesh(config)
  optimizer = train.build.build_optimizer(config)
  emas = train.build.build_ema_decays(config)
  objective = train.families.of(config).objective(config)
  _, shapes = train.state_maker(config, objective, optimizer, emas, mesh)
  # other than zeros everywhere, and without a compilation
  fresh = jax.tree.map(
    lambda x: jax.device_put(np.full(x.shape, 3, x.dtype), x.sharding), shapes
  )
  state = first_weights.begin(fresh, str(run))
  printed = capsys.readouterr().out
  afresh = {
    'conv_in/kernel [3, 3, 3, 8] ([3, 3, 1, 8] there)',
    'conv_out/bias [3] ([1] there)',
    'conv_out/kernel [3, 3, 8, 3] ([3, 3, 8, 1] there)',
    'label_embedding/table/embedding [5, 32] ([3, 32] there)',
  }
  assert all(f'network/{leaf}' in printed for leaf in afresh)
  assert printed.count(' there)') == len(afresh)
  expected = diffusers.load(STORED / 'labels').params
  for tree in (state.params, state.ema_params):
    network = tree['network']
    same(network['noise_dense_1'], expected['noise_dense_1'])
    same(network['conv_in']['bias'], expected['conv_in']['bias'])
    same(network['conv_out'], fresh.params['network']['conv_out'])
  same(state.opt_state, fresh.opt_state)


def test_init_from_another_network_is_refused(run, tmp_path):
  config = smoke(**{'training.init_from': str(run)})
  config.network.channels = 4
  with pytest.raises(UserError, match='init_from: .* is of another network'):
    PROGRAMS['train'](config, str(tmp_path / 'x'))
  config.training.init_from = str(tmp_path / 'none')
  with pytest.raises(UserError, match='init_from: there is no run in'):
    PROGRAMS['train'](config, str(tmp_path / 'x'))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({}, 'give either source, weights that become'),
    ({'convert.source': 'x', 'convert.to': 'diffusers'}, 'give either source'),
    ({'convert.source': 'none'}, 'convert.source: there is no none'),
    (
      {'convert.source': str(STORED / 'ho'), 'convert.format': 'diffuser'},
      "convert.format='diffuser'.* is not one of diffusers",
    ),
    (
      {'convert.source': str(STORED / 'ho'), 'convert.options': 'ema'},
      "convert.options: 'ema' is not name=value",
    ),
    (
      {'convert.source': str(STORED / 'ho'), 'convert.options': 'ema=True'},
      'convert.source: ema is no option of UNet2DModel: null_class can',
    ),
    (
      {'convert.source': str(STORED / 'ho'), 'convert.model': 'big'},
      'convert.source: model is no option of UNet2DModel',
    ),
    (
      {'convert.source': str(STORED / 'ho' / 'config.json')},
      'config.json is no file of weights: not safetensors, npz, PyTorch, nor',
    ),
    (
      {'convert.source': str(STORED)},
      'stored is not a folder of diffusers, which has a model_index.json or a',
    ),
    (
      {'convert.to': 'onnx', 'convert.out': 'x'},
      "convert.to='onnx' is not one",
    ),
    ({'convert.to': 'diffusers'}, 'convert.out: where is it written to'),
    ({'convert.to': 'diffusers', 'convert.out': 'x'}, 'there is no run in'),
  ],
)
def test_mistakes_are_one_line(changes, message, tmp_path):
  with pytest.raises(UserError, match=message) as error:
    convert(tmp_path / 'run', **changes)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists() and not Path('x').exists()


def test_other_folders_and_files_are_one_line(tmp_path):
  source, run = tmp_path / 'source', tmp_path / 'run'
  source.mkdir()
  with pytest.raises(UserError, match='source is not a folder of diffusers'):
    convert(run, **{'convert.source': str(source)})
  (source / 'config.json').write_text('{"data": 1}')  # as of our own runs
  with pytest.raises(UserError, match='source is a folder of no class of diff'):
    convert(run, **{'convert.source': str(source)})
  write_png(source / 'd.png', np.zeros((8, 8), np.uint8))
  with pytest.raises(UserError, match='d.png is no file of weights: not safet'):
    convert(run, **{'convert.source': str(source / 'd.png')})
  weights = source / 'checkpoint_26'
  weights.write_bytes(serialization.msgpack_serialize({'a': np.zeros(3)}))
  several = (
    'may be of several projects: give --config.convert.format=diffusers|'
  )
  with pytest.raises(UserError, match=several):
    convert(run, **{'convert.source': str(weights)})


def test_a_folder_with_a_run_is_not_written(run):
  with pytest.raises(UserError, match='holds a run: give another --workdir'):
    converted(run)


def test_what_comes_with_the_weights_cannot_be_given(run):
  for field in ('network.dropout', 'sampling.num_steps', 'data.image_shape'):
    with pytest.raises(UserError, match=f'{field} cannot be given'):
      run_folder.check_overrides('convert', {field: 1}, 'none')
  run_folder.check_overrides('convert', {'data.name': 'digits'}, 'none')
  exported = {'convert.to': 'diffusers', 'network.dropout': 0.5}
  with pytest.raises(UserError, match='network.dropout cannot change'):
    run_folder.check_overrides('convert', exported, str(run))


def test_the_config_of_a_run(run, tmp_path):
  stored = run_folder.read_config(run) or {}
  config = run_of.get_config(str(run))
  assert run_folder.plain(config) == stored | {
    'convert': run_folder.plain(run_of.get_config())['convert'],
    'stored_in': str(run),
  }
  with pytest.raises(ValueError, match='there is no run in .* no config.json'):
    run_of.get_config(str(tmp_path))
