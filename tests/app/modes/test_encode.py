"""Stored latents: a training on them is one that encodes in each step."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.config import trust
from diffusion_jax.app.modes import MODES, encode
from diffusion_jax.app.run.weights import Run
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import (
  assert_same,
  interrupted,
  lines_of,
  params_of,
  refuse_to_compile,
  refused,
  smoke,
)
from tests.app.fields import typed
from tests.app.kinds.test_latent import config_of

FLIPPED = typed('training.random_flip=True training.batch_size=20')
SEEN = typed('training.held_out.every=2 training.num_steps=6 training.log_every=1')


def latents_in(path):
  return FLIPPED | {'latent.path': path}


@pytest.fixture(scope='module')
def stored(autoencoder, tmp_path_factory):
  """Stores the latents of the digits and of their mirror images."""
  path = tmp_path_factory.mktemp('stored') / 'latents'
  MODES['encode'](config_of(autoencoder, **latents_in(path)), path.parent / 'run')
  assert not (path.parent / 'run').exists()
  return path


def test_losses_are_those_of_encoding_in_each_step(autoencoder, stored, tmp_path, capsys):
  """Batches, mirrored images, noise and scale agree; a run may change to them."""
  every = FLIPPED | SEEN | typed('training.checkpoints.every=2 training.checkpoints.keep=3')
  MODES['train'](config_of(autoencoder, **every), tmp_path / 'images')
  assert 'by their latents' not in capsys.readouterr().out
  latents = interrupted(tmp_path / 'images', tmp_path / 'latents', '6')
  shutil.rmtree(latents / 'checkpoints' / '4')
  MODES['train'](config_of(autoencoder, **every | latents_in(stored)), latents)
  assert f'by their latents in {stored}' in capsys.readouterr().out
  for name, count in (('loss', 6), ('test_loss', 3)):
    ours, theirs = (lines_of(run, name) for run in (latents, tmp_path / 'images'))
    assert len(ours) == count
    assert_allclose(ours, theirs, rtol=1e-5)
  run = Run.open(config_of(''), RunFolder.at(latents))
  run.check('sample')
  assert_same(run.on_devices['autoencoder']['network'], params_of(autoencoder)['network'])


def test_a_validation_part_is_a_split_of_its_own(autoencoder):
  config = config_of(autoencoder, **typed('data.validation_fraction=0.2'))
  sizes = {split: len(images) for split, images in encode.splits_of(config).items()}
  assert sizes == {'train': 1150, 'validation': 287, 'test': 360}


def interrupt(*args):
  raise KeyboardInterrupt


def test_a_killed_encoding_continues(autoencoder, stored, tmp_path, monkeypatch, capsys):
  path = tmp_path / 'latents'
  config = config_of(autoencoder, **latents_in(path))
  with monkeypatch.context() as patch:
    patch.setattr(encode, 'write', interrupt)
    with pytest.raises(KeyboardInterrupt):
      MODES['encode'](config, tmp_path / 'run')
  assert not path.exists()
  sorted(tmp_path.glob('latents-*.parts/train/*.npz'))[1].unlink()
  changed = config_of(autoencoder, **latents_in(path) | {'training.random_flip': False})
  larger = config_of(autoencoder, **latents_in(path) | {'training.batch_size': 40})
  for other in (changed, larger):  # which have parts of their own
    with monkeypatch.context() as patch:
      patch.setattr(encode, 'write_parts', interrupt)
      with pytest.raises(KeyboardInterrupt):
        MODES['encode'](other, tmp_path / 'run')
  started, encoder = [], encode.encoder

  def counted(*args):
    start = encoder(*args)
    return lambda index: started.append(index) or start(index)

  monkeypatch.setattr(encode, 'encoder', counted)
  MODES['encode'](config, tmp_path / 'run')
  assert len(started) == 1
  assert sorted(x.name for x in tmp_path.iterdir()) == ['latents']
  names = sorted(x.name for x in stored.iterdir())
  assert names == sorted(x.name for x in path.iterdir())
  for name in names:
    assert (path / name).read_bytes() == (stored / name).read_bytes()
  MODES['encode'](config, tmp_path / 'run')
  assert 'is there already' in capsys.readouterr().out
  refused('has other latents: mirrored is True, False now', MODES['encode'], changed, tmp_path)


def test_latents_of_another_autoencoder_are_refused(autoencoder, stored, tmp_path, monkeypatch):
  """Nothing is compiled, and no run begins."""
  record = json.loads((stored / 'latents.json').read_text())
  path = shutil.copytree(stored, tmp_path / 'latents')
  write_summed(path / 'latents.json', record | {'autoencoder': 1})
  config = config_of(autoencoder, **latents_in(path), **SEEN)
  refuse_to_compile(monkeypatch)
  message = 'has other latents: autoencoder is 1'
  refused(message, MODES['train'], config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'latent.json').exists()


def test_latents_of_another_shape_are_refused(autoencoder, stored, tmp_path):
  path = shutil.copytree(stored, tmp_path / 'latents')
  for name in ('x', 'test_x'):
    np.save(path / f'{name}.npy', np.load(path / f'{name}.npy')[..., :1])
  config = config_of(autoencoder, **latents_in(path), **SEEN)
  refused(r'deviations \[4, 4, 1\] of latents \[4, 4, ', MODES['train'], config, tmp_path / 'run')


@pytest.mark.parametrize('make', [smoke, lambda: config_of('runs/none')])
def test_a_config_without_a_place_for_latents_is_refused(make, tmp_path):
  refused('set its config.latent.path', MODES['encode'], make(), tmp_path)


def test_a_place_that_only_a_stored_config_names_is_refused(autoencoder, tmp_path, monkeypatch):
  config = config_of(autoencoder, **latents_in(tmp_path / 'latents'))
  monkeypatch.setattr(trust, '_allowed', set())
  refused('only a stored config contains this path', MODES['encode'], config, tmp_path / 'run')
  assert not [*tmp_path.iterdir()]
