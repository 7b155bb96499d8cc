"""Folders to be shared, from convert.to=huggingface to --config."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.config import store, trust
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import sharing
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import write_json
from diffusion_jax.weights import checksums, load, share
from tests.app.conftest import arrays_of, assert_same, params_of, smoke
from tests.app.fields import within
from tests.app.run.conftest import QUICK, command, sample, write


def pictures(workdir):
  [path] = (workdir / 'samples').glob('*.npz')
  return arrays_of(workdir, path.stem)['arr_0']


def test_a_copy_samples_the_same_pictures(evaluated, shared, tmp_path, capsys):
  shutil.copytree(shared, tmp_path / 'elsewhere')
  workdir = tmp_path / 'new'
  for _ in range(2):
    sample(tmp_path / 'elsewhere', f'--workdir={workdir}')
  assert 'is there already, made with these settings' in capsys.readouterr().out
  np.testing.assert_array_equal(pictures(workdir), pictures(evaluated))
  assert pictures(evaluated).std() > 0
  sample(tmp_path / 'elsewhere')  # in the folder itself
  np.testing.assert_array_equal(pictures(tmp_path / 'elsewhere'), pictures(evaluated))


def test_the_folder_names_no_place(evaluated, shared):
  assert {path.name for path in shared.iterdir()} == {
    'README.md',
    'config.json',
    'model.safetensors',
    'SHA256SUMS',
    'samples.png',
  }
  stored = json.loads((shared / 'config.json').read_text())
  assert stored['training']['init_from'] == 'a'
  assert not {'convert', 'report', 'compilation_cache'} & stored.keys()
  assert '/home/me' not in (shared / 'config.json').read_text()


def test_a_training_begins_with_a_shared_folder(evaluated, shared, tmp_path, capsys):
  few = within('training', init_from=str(shared), num_steps=1)
  few |= within('optimizer', warmup_steps=0, learning_rate=1e-30)
  MODES['train'](smoke(**few), str(tmp_path))
  params, stored, _ = load.open(tmp_path, 'raw')
  assert_same(params, params_of(evaluated))
  assert stored['training']['init_from'] == str(shared)
  leaves = len(jax.tree.leaves(params))
  assert f'{leaves} of {leaves} leaves\n' in capsys.readouterr().out


def without_weights(out):
  (out / share.NAME).unlink()


def importing(out):
  content = json.loads((out / 'config.json').read_text())
  content['network'] = {'name': 'their_module:Network'}
  write_json(out / 'config.json', content)


WRONG = {
  without_weights: 'has a config.json and no weights',
  importing: "config.network='their_module:Network' would be imported",
}


@pytest.mark.parametrize('damage', WRONG)
def test_a_wrong_folder_is_one_line(damage, shared, tmp_path, capsys):
  shutil.copytree(shared, tmp_path / 'hub')
  damage(tmp_path / 'hub')
  args = '--mode=sample', f'--workdir={tmp_path / "new"}', *QUICK
  assert command(f'--config={tmp_path / "hub"}', *args) == 2
  said = capsys.readouterr().err
  assert WRONG[damage] in said and said.count('\n') == 1
  assert not (tmp_path / 'new').exists()


REFUSED = {
  'shared weights and no state to continue': '--mode=train',
  'only a training can change this': '--mode=sample --workdir={new} --config.network.dropout=0.3',
  'is a copy of another folder than': '--mode=sample --workdir={other}',
  'has one set of weights': '--mode=sample --config.sampling.ema=False',
}


@pytest.mark.parametrize('message', REFUSED)
def test_wrong_use_is_one_line(message, shared, tmp_path, capsys):
  shutil.copytree(shared, tmp_path / 'other')
  content = json.loads((shared / 'config.json').read_text())
  write_json(tmp_path / 'other' / 'config.json', content | {'seed': 5})
  places = {name: tmp_path / name for name in ('new', 'other')}
  args = REFUSED[message].format(**places).split()
  assert command(f'--config={shared}', *args, *QUICK) == 2
  said = capsys.readouterr().err
  assert message in said and said.count('\n') == 1
  assert not (tmp_path / 'new').exists()


def test_config_json_makes_the_copy_a_run_and_is_last(tmp_path):
  for name in ('config.json', share.NAME, checksums.NAME, 'latent.json'):
    (tmp_path / name).touch()
  assert [*sharing._parts(tmp_path)][-1].name == 'config.json'


def test_a_copy_of_other_weights_under_the_same_config_is_refused(shared, tmp_path):
  shutil.copytree(shared, tmp_path / 'new')
  (tmp_path / 'new' / share.NAME).unlink()
  (tmp_path / 'new' / checksums.NAME).unlink()
  params = jax.tree.map(lambda x: x + 1, params_of(shared))
  share.write(tmp_path / 'new', params, 4)
  with pytest.raises(UserError, match='is a copy of another folder than'):
    sharing.fetch(str(shared), str(tmp_path / 'new'))


def test_the_config_of_a_kept_autoencoder_names_no_place(evaluated, tmp_path):
  kept = tmp_path / 'autoencoder'
  sharing._write_kept(evaluated, kept)
  text = (kept / 'config.json').read_text()
  assert '/home/me' not in text and '"init_from": "a"' in text


def test_a_shared_folder_is_not_converted(shared, tmp_path, capsys):
  args = '--mode=convert', f'--workdir={tmp_path / "new"}'
  assert command(*args, f'--config.convert.source={shared}') == 2
  assert f'needs no conversion: --config={shared}' in capsys.readouterr().err


def test_two_files_of_two_models_are_refused(shared, tmp_path, capsys):
  """The config.json is of a larger network than the weights."""
  shutil.copytree(shared, tmp_path / 'hub')
  path = tmp_path / 'hub' / 'config.json'
  content = json.loads(path.read_text())
  content['network']['channels'] += 8
  write_json(path, content)
  assert command(f'--config={path.parent}', '--mode=sample', *QUICK) == 2
  said = capsys.readouterr().err
  assert 'is of another network: network/' in said and said.count('\n') == 1


def test_a_folder_with_files_is_not_written_into(evaluated, tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  assert write(evaluated, tmp_path / 'empty') == 0
  assert write(evaluated, tmp_path / 'empty') == 2
  assert 'exists and is not empty: give a new folder' in capsys.readouterr().err


def test_a_folder_needs_no_pictures(evaluated, tmp_path, capsys):
  model = models.make(store.open_run(evaluated), evaluated)
  params = params_of(evaluated)
  other = jax.tree.map(lambda x: x + 1, params)  # which has drawn nothing
  sharing.write(tmp_path / 'out', model, other, 4)
  assert 'no samples.png: --mode=sample has drawn' in capsys.readouterr().out
  assert not (tmp_path / 'out' / 'samples.png').exists()
  text = (tmp_path / 'out' / 'README.md').read_text()
  assert 'samples.png' not in text and 'have not been evaluated' in text


def test_paths_become_names():
  tree = {'data': {'path': '/home/me/x/', 'name': 'a/b', 'paths': ['/c/d']}}
  expected = {'data': {'path': 'x', 'name': 'a/b', 'paths': ['d']}}
  assert trust.without_folders(tree) == expected
