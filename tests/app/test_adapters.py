"""A training of adapters, from the command's config to exported files."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax.app.config import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.interop import files
from diffusion_jax.training import base_weights, lora
from tests.app.conftest import (
  SEEN,
  assert_same,
  lines_of,
  of_run,
  params_of,
  refused,
  restored,
  unet_smoke,
  untrained,
  without_config,
)

LORA = {'training.lora_rank': 2, 'training.lora_alpha': 3.0}
TRACKED = {
  'training.ema_sigma_rels': (0.05, 0.10),
  'training.snapshot_every': 1,
  'optimizer.decay': 'constant',
}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'base'
  return untrained(unet_smoke(), folder)


def config_of(base, **changes):
  return unet_smoke(
    **{'training.init_from': str(base), **LORA, **TRACKED} | changes
  )


@pytest.fixture(scope='module')
def run(base, tmp_path_factory):
  """Trains two steps, moves the run, and trains two more, with every hook."""
  first = tmp_path_factory.mktemp('first') / 'adapted'
  MODES['train'](config_of(base, **{'training.num_steps': 2}), str(first))
  moved = shutil.move(first, tmp_path_factory.mktemp('moved') / 'adapted')
  hooks = SEEN | {'report.after_training': False}
  MODES['train'](config_of(base, **hooks), str(moved))
  return moved


def raw(workdir, step=4, ema=True):
  return params_of(workdir, ema, checkpoint=step, merge=False)


def test_only_adapters_are_trained_and_saved(base, run):
  network = params_of(base)['network']
  stored = raw(run, ema=False)
  new = lora.lora_init(jax.random.key(0), network, 2)
  assert jax.tree.structure(stored) == jax.tree.structure({'network': new})
  assert_same(base_weights.read(run)[0]['network'], network)
  moved = jax.tree.leaves(stored['network']['lora_B'])
  assert all(np.abs(x).max() > 0.0 for x in moved)
  trained = json.loads((run / 'sessions.jsonl').read_text().splitlines()[0])
  assert trained['parameters'] == sum(x.size for x in jax.tree.leaves(stored))
  assert len(lines_of(run, 'test_loss')) == 1
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
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_same(merged['network']['conv_in'], network['conv_in'])

  check(restored(run), raw(run))
  check(restored(run, **{'sampling.ema': False}), raw(run, ema=False))
  width = {'sampling.ema_sigma_rel': 0.1}
  check(restored(run, **width), raw(run, ema='sigma_rel_0.1'))
  MODES['average'](of_run(run, **{'average.sigma_rel': 0.1}), str(run))
  assert_same(restored(run / 'averages' / '0.1-4'), restored(run, **width))


def test_a_run_continues_exactly(base, run, tmp_path):
  MODES['train'](config_of(base), str(tmp_path / 'once'))
  for ema in (True, False):
    assert_same(raw(tmp_path / 'once', ema=ema), raw(run, ema=ema))


def test_adapters_are_exported_alone_and_merged(base, run, tmp_path):
  def write(workdir, to, out):
    changes = {'convert.to': to, 'convert.out': str(tmp_path / out)}
    MODES['convert'](of_run(workdir, **changes), str(workdir))
    return tmp_path / out

  own = files.read_tensors(write(run, 'lora', 'lora.safetensors'))
  assert {n.partition('.')[0] for n in own} == {'unet'}
  name = 'diffusion_pytorch_model.safetensors'
  merged, before = (
    files.read_tensors(write(workdir, 'diffusers', out) / 'unet' / name)
    for workdir, out in ((run, 'merged'), (base, 'before'))
  )
  a, b = (own[f'unet.time_embedding.linear_2.lora_{x}.weight'] for x in 'AB')
  name = 'time_embedding.linear_2.weight'
  np.testing.assert_allclose(merged[name], before[name] + b @ a, atol=1e-5)
  # As one file it is a run without adapters.
  write(run, 'safetensors', 'ours.safetensors')
  source = {'convert.source': tmp_path / 'ours.safetensors'}
  MODES['convert'](without_config(**source), tmp_path / 'again')
  assert_same(restored(tmp_path / 'again'), restored(run))


def test_mistakes_are_one_line(base, run, tmp_path):
  copy = shutil.copytree(run, tmp_path / 'copy')
  path = base_weights.path_of(copy)
  content = path.read_bytes()
  path.write_bytes(content[:-4] + b'1234')
  refused('base.safetensors is damaged', restored, copy)
  path.unlink()
  refused('base.safetensors is missing', restored, copy)
  again = of_run(run, **{'training.num_steps': 5, 'training.resume': 'force'})
  refused('base.safetensors is missing', MODES['train'], again, copy)
  path.write_bytes(content)
  again = store.with_flags(again, [('training.lora_alpha', '2')])
  refused('is 1, and 1.5 in', MODES['train'], again, copy)
  other = {'network.channels': 12}
  wrong = config_of(base, **other)
  new = tmp_path / 'other'
  refused('init_from: .*another network: network/', MODES['train'], wrong, new)
  assert not base_weights.path_of(new).exists()
