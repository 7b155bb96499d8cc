"""Parameters of a run that are used: checkpoints, and averages old and new."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.interop import weight_files
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import lora, power_ema
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import averages, checkpoints, load
from tests.app.conftest import (
  DIGITS,
  SEEN,
  assert_same,
  interrupted,
  lines_of,
  of_run,
  params_of,
  refused,
  restored,
  smoke,
  unet_smoke,
  untrained,
  without_config,
)
from tests.app.fields import within


def restore(workdir, **fields):
  return restored(workdir, **within('sampling', **fields))


def bias(run, **fields):
  """Returns a bias of the parameters that config.sampling chooses."""
  return restore(run, **fields)['network']['conv_in']['bias']


@pytest.fixture(scope='module')
def two_decays(tmp_path_factory):
  """Makes checkpoints whose parameters are their step, and averages its multiples."""
  workdir = tmp_path_factory.mktemp('runs')
  model = make_model(smoke(**{'training.average.more': (0.5,)}), RunFolder.at(workdir))
  folder.write_config(RunFolder.at(workdir), model.config, model.facts)
  stored = folder.stored_form(model.config, model.facts)
  all_are = lambda x: jax.tree.map(lambda p: np.full(p.shape, x, p.dtype), model.shapes())
  with checkpoints.open_manager(workdir, more_emas=['0.5']) as manager:
    for step in (1, 2):
      more = {'0.5': all_are(100 * step)}
      state = TrainState(np.int32(step), all_are(step), all_are(10 * step), (), (), more)
      checkpoints.save(manager, state, stored)
  return workdir


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({}, 20),
    ({'weights': 'raw'}, 2),
    ({'weights.decay': 0.5}, 200),
    ({'checkpoint': '2'}, 20),
    ({'checkpoint': '1', 'weights': 'raw'}, 1),
  ],
)
def test_any_average_and_checkpoint_can_be_sampled_from(fields, expected, two_decays):
  assert (bias(two_decays, **fields) == expected).all()


def test_weights_are_read_when_they_are_needed(tmp_path):
  folder.write_config(RunFolder.at(tmp_path), smoke(), DIGITS)
  run = weights.Run.open(smoke(), RunFolder.at(tmp_path))
  run.check('sample')
  refused('contains no checkpoint', lambda: run.on_devices)


def test_another_network_is_refused_and_the_same_is_not_traced(tmp_path, monkeypatch):
  run = untrained(unet_smoke(), tmp_path)
  other = make_model(unet_smoke(**{'network.channels': 12}), RunFolder.at(run))
  message = r'checkpoint 4 is of another network: network/conv_in/bias is \[8\]'
  refused(message, weights.restore, other)
  monkeypatch.setattr(Model, 'shapes', None)
  _, step = weights.restore(make_model(unet_smoke(), RunFolder.at(run)))
  assert step == 4


def test_snapshots_hold_the_averages_of_the_training(averaged):
  """The recursion is computed in float64 from the parameters of each step."""
  params = [params_of(averaged, 'raw', step=i) for i in (1, 2, 3, 4)]
  for sigma_rel, name in ((0.05, 'average'), (0.1, 'sigma_rel_0.1')):
    gamma = power_ema.exponent(sigma_rel)
    expected = jax.tree.map(np.float64, params[0])
    for t, now in enumerate(params[1:], 2):
      beta = (1.0 - 1.0 / t) ** (gamma + 1.0)
      expected = jax.tree.map(
        lambda a, x, beta=beta: beta * a + (1.0 - beta) * np.float64(x), expected, now
      )
    stored = weight_files.read_tensors(averages.path_of(averaged, 4))
    for path, x in weight_files.flatten(expected).items():
      assert_allclose(stored[f'sigma_rel_{sigma_rel}/{path}'], x, rtol=1e-4, atol=1e-6)
    assert_same(
      restore(averaged, weights='width', weights__sigma_rel=sigma_rel), params_of(averaged, name)
    )
  assert averages.read_images(averaged, 3) == 3 * 8


LORA = within('training.start', 'adapters', rank=2, alpha=3.0)
TRACKED = within('training.average', 'powers', widths=(0.05, 0.10), every=1)
TRACKED |= within('optimizer', decay='constant')


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  return untrained(smoke(), tmp_path_factory.mktemp('runs') / 'base')


def config_of(base, make=smoke, **changes):
  return make(**{'training.start.run': str(base), **LORA, **TRACKED} | changes)


@pytest.fixture(scope='module')
def run(base, tmp_path_factory):
  """Trains four steps with every hook, and moves the run."""
  first = tmp_path_factory.mktemp('first') / 'adapted'
  hooks = SEEN | {'report.after_training': False}
  MODES['train'](config_of(base, **hooks), str(first))
  return shutil.move(first, tmp_path_factory.mktemp('moved') / 'adapted')


def unmerged(workdir, which='average'):
  return params_of(workdir, which, merge=False)


def test_only_adapters_are_trained_and_saved(base, run):
  network = params_of(base)['network']
  stored = unmerged(run, 'raw')
  new = lora.lora_init(jax.random.key(0), network, 2)
  assert jax.tree.structure(stored) == jax.tree.structure({'network': new})
  assert_same(load.read_base(run)[0]['network'], network)
  moved = jax.tree.leaves(stored['network']['lora_B'])
  assert all(np.abs(x).max() > 0.0 for x in moved)
  trained = json.loads((run / 'sessions.jsonl').read_text().splitlines()[0])
  assert trained['parameters'] == sum(x.size for x in jax.tree.leaves(stored))
  assert len(lines_of(run, 'test_loss')) == 2
  assert (run / 'samples' / 'step_00000004.png').is_file()


def test_every_reader_gets_merged_weights(base, run):
  """W + 3 / 2 A B, in float64, of the checkpoint and of an average."""
  network = params_of(base)['network']

  def check(merged, stored):
    a, b = (
      np.asarray(stored['network'][n]['noise_dense_1']['kernel'], np.float64)
      for n in ('lora_A', 'lora_B')
    )
    expected = np.float64(network['noise_dense_1']['kernel']) + 1.5 * a @ b
    found = merged['network']['noise_dense_1']['kernel']
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_same(merged['network']['conv_in'], network['conv_in'])

  check(restored(run), unmerged(run))
  check(restored(run, **{'sampling.weights': 'raw'}), unmerged(run, 'raw'))
  width = within('sampling.weights', 'width', sigma_rel=0.1)
  check(restored(run, **width), unmerged(run, 'sigma_rel_0.1'))
  MODES['average'](of_run(run, **{'average.sigma_rel': 0.1}), str(run))
  assert_same(restored(run / 'averages' / '0.1-4'), restored(run, **width))


def test_a_run_continues_exactly(base, run, tmp_path):
  """A run continues exactly in another folder than the one in which it began."""
  copy = interrupted(run, tmp_path / 'copy')
  MODES['train'](config_of(base), str(copy))
  for which in ('average', 'raw', 'sigma_rel_0.1'):
    assert_same(unmerged(copy, which), unmerged(run, which))


def without_a_layer(path):
  """Leaves a layer that is not adapted out of the base weights of a run."""
  params, scale = load.read_base(path.parent)
  network = {n: x for n, x in params['network'].items() if n != 'conv_in'}
  load.write_base(path.parent, {'network': network}, scale)


def test_adapters_are_exported_alone_and_merged(tmp_path):
  """Random adapters of a U-Net are exported on their own, and merged into its weights."""
  base = untrained(unet_smoke(), tmp_path / 'base')
  run = untrained(config_of(base, unet_smoke), tmp_path / 'run')
  load.write_base(run, params_of(base), 1.5)

  def export(workdir, to, out):
    changes = {'convert.to': to, 'convert.out': str(tmp_path / out)}
    MODES['convert'](of_run(workdir, **changes), str(workdir))
    return tmp_path / out

  own = weight_files.read_tensors(export(run, 'lora', 'lora.safetensors'))
  assert {n.partition('.')[0] for n in own} == {'unet'}
  name = 'diffusion_pytorch_model.safetensors'
  merged, before = (
    weight_files.read_tensors(export(workdir, 'diffusers', out) / 'unet' / name)
    for workdir, out in ((run, 'merged'), (base, 'before'))
  )
  a, b = (own[f'unet.time_embedding.linear_2.lora_{x}.weight'] for x in 'AB')
  name = 'time_embedding.linear_2.weight'
  assert_allclose(merged[name], before[name] + b @ a, atol=1e-5)
  # As one file it is a run without adapters.
  export(run, 'safetensors', 'ours.safetensors')
  source = {'convert.source': tmp_path / 'ours.safetensors'}
  MODES['convert'](without_config(**source), tmp_path / 'again')
  assert_same(restored(tmp_path / 'again'), restored(run))
  without_a_layer(load.base_path(run))
  refused('of another network', restored, run)


@pytest.mark.parametrize(
  'change, message',
  [(os.unlink, 'base.safetensors is missing'), (without_a_layer, 'of another network')],
)
def test_base_weights_of_a_stranger_are_refused(change, message, base, run, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'copy')
  change(load.base_path(copy))
  refused(message, restored, copy)
  again = {'training.num_steps': 5, 'training.resume': 'force'}
  refused(message, MODES['train'], config_of(base, **again), copy)


@pytest.mark.parametrize(
  'name, tensor',
  [
    ('peft.safetensors', 'base_model.model.mid.to_q.lora_A.weight'),
    ('diffusers.safetensors', 'unet.mid_block.to_q.lora_B.weight'),
    ('kohya.safetensors', 'lora_unet_mid_block_to_q.lora_down.weight'),
    ('peft/adapter_model.safetensors', 'base_model.model.lora_A.weight'),
    ('hub/pytorch_lora_weights.safetensors', 'unet.to_q.lora_A.weight'),
  ],
)
def test_adapters_of_others_are_not_read(name, tensor, tmp_path):
  (tmp_path / name).parent.mkdir(exist_ok=True)
  weight_files.write_safetensors(
    tmp_path / name, {tensor: np.zeros((2, 2), np.float32)}, format='pt'
  )
  source = tmp_path / name.partition('/')[0]
  for given in ({}, {'convert.format': 'diffusers'}):
    config = without_config(**{'convert.source': source} | given)
    message = 'holds adapters .LoRA., which are not read: merge them'
    refused(message, MODES['convert'], config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_another_scale_or_network_is_refused(base, run, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'copy')
  again = config_of(base, **within('training', num_steps=5, start__alpha=2.0, resume='force'))
  refused('is 1, and 1.5 in', MODES['train'], again, copy)
  wrong, new = config_of(base, **{'network.channels': 12}), tmp_path / 'other'
  refused('start.*: .*another network: network/', MODES['train'], wrong, new)
  assert not load.base_path(new).exists()
