"""Folders to be shared, from convert.to=huggingface to --config."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from absl.testing import flagsaver
from PIL import Image

from diffusion_jax.app import cli, models
from diffusion_jax.app.config import store, trust
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import model_card, sharing
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import write_json
from diffusion_jax.weights import checksums, load, share
from tests.app.conftest import arrays_of, assert_same, of_run, params_of, smoke, untrained
from tests.app.fields import within

QUICK = '--config.sampling.num_samples=10', '--config.compilation_cache='


def command(*args):
  """Runs a command line; returns its exit code."""
  with flagsaver.flagsaver():
    try:
      cli.parse(['launch.py', *map(str, args)])
      cli.main([])
    except SystemExit as stop:
      return stop.code
  return 0


def sample(config, *args):
  assert not command(f'--config={config}', '--mode=sample', *QUICK, *args)


def pictures(workdir):
  [path] = (workdir / 'samples').glob('*.npz')
  return arrays_of(workdir, path.stem)['arr_0']


def write(run, out, *args):
  return command(
    f'--config={run}',
    '--mode=convert',
    '--config.convert.to=huggingface',
    f'--config.convert.out={out}',
    *args,
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Makes a run with samples and an evaluation, as the modes would."""
  fields = {'training.init_from': '/home/me/runs/a', 'sampling.num_steps': 3}
  config = smoke(**fields)
  run = untrained(config, tmp_path_factory.mktemp('runs') / 'digits')
  sample(run)
  weights = checksums.of_arrays(params_of(run))
  place = run / 'evaluation' / 'elbo-test'
  place.mkdir(parents=True)
  bits = {'bits_per_dim': 3.14159, 'standard_error': 0.02, 'images': 1000}
  about = {'split': 'test', 'settings': {'weights': weights}}
  write_json(place / 'result.json', bits | about)
  place = run / 'evaluation' / 'samples'
  place.mkdir()
  scores = {
    'fid': {'value': 12.5, 'error': None, 'note': 'of 50'},
    'kid': {'value': float('nan'), 'error': None, 'note': ''},
  }
  drawn = {'weights': weights, 'sampling': {'seed': 0, 'num_samples': 50}}
  content = {'protocol': {'samples': drawn}, 'metrics': scores}
  write_json(place / 'result.json', content)
  return run


@pytest.fixture(scope='module')
def out(run, tmp_path_factory):
  out = tmp_path_factory.mktemp('hub') / 'digits-small'
  assert write(run, out) == 0
  return out


def test_a_copy_samples_the_same_pictures(run, out, tmp_path, capsys):
  shutil.copytree(out, tmp_path / 'elsewhere')
  workdir = tmp_path / 'new'
  for _ in range(2):
    sample(tmp_path / 'elsewhere', f'--workdir={workdir}')
  assert 'is there already, made with these settings' in capsys.readouterr().out
  np.testing.assert_array_equal(pictures(workdir), pictures(run))
  assert pictures(run).std() > 0
  sample(tmp_path / 'elsewhere')  # in the folder itself
  np.testing.assert_array_equal(pictures(tmp_path / 'elsewhere'), pictures(run))


def test_the_folder_names_no_place(run, out):
  assert {path.name for path in out.iterdir()} == {
    'README.md',
    'config.json',
    'model.safetensors',
    'SHA256SUMS',
    'samples.png',
  }
  stored = json.loads((out / 'config.json').read_text())
  assert stored['training']['init_from'] == 'a'
  assert not {'convert', 'report', 'compilation_cache'} & stored.keys()
  assert '/home/me' not in (out / 'config.json').read_text()


def test_the_card_is_what_the_hub_reads(out):
  _, head, text = (out / 'README.md').read_text().split('---\n', 2)
  head = yaml.safe_load(head)
  assert head['license'] == 'unknown' and head['datasets'] == ['digits']
  assert head['library_name'] == 'diffusion_jax'
  assert head['pipeline_tag'] == 'unconditional-image-generation'
  [index] = head['model-index']
  assert index['name'] == 'digits-small'
  [result] = index['results']
  assert result['dataset'] == {'type': 'digits', 'name': 'digits'}
  found = {x['type']: x['value'] for x in result['metrics']}
  assert found == {'bits_per_dim': 3.14159, 'fid': 12.5}
  assert '| bits per dim | 3.142\xa0±\xa00.020 | elbo-test: 1,000 test' in text
  assert '| FID | 12.5 | samples: 50 of checkpoint None, seed 0; of 50 |' in text
  assert '![samples](samples.png)' in text and '## Licence' in text
  with Image.open(out / 'samples.png') as image:
    assert image.size[0] > 8 * 10


def test_scores_of_other_weights_are_left_out(run, capsys):
  assert not [*model_card.scores(run, 1)]
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2 and 'elbo-test is of other weights' in said[0]


def test_a_training_begins_with_a_shared_folder(run, out, tmp_path, capsys):
  few = within('training', init_from=str(out), num_steps=1)
  few |= within('optimizer', warmup_steps=0, learning_rate=1e-30)
  MODES['train'](smoke(**few), str(tmp_path))
  params, stored, _ = load.open(tmp_path, 'raw')
  assert_same(params, params_of(run))
  assert stored['training']['init_from'] == str(out)
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
def test_a_wrong_folder_is_one_line(damage, out, tmp_path, capsys):
  shutil.copytree(out, tmp_path / 'hub')
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
def test_wrong_use_is_one_line(message, out, tmp_path, capsys):
  shutil.copytree(out, tmp_path / 'other')
  content = json.loads((out / 'config.json').read_text())
  write_json(tmp_path / 'other' / 'config.json', content | {'seed': 5})
  places = {name: tmp_path / name for name in ('new', 'other')}
  args = REFUSED[message].format(**places).split()
  assert command(f'--config={out}', *args, *QUICK) == 2
  said = capsys.readouterr().err
  assert message in said and said.count('\n') == 1
  assert not (tmp_path / 'new').exists()


def test_config_json_makes_the_copy_a_run_and_is_last(tmp_path):
  for name in ('config.json', share.NAME, checksums.NAME, 'latent.json'):
    (tmp_path / name).touch()
  assert [*sharing._parts(tmp_path)][-1].name == 'config.json'


def test_a_copy_of_other_weights_under_the_same_config_is_refused(out, tmp_path):
  shutil.copytree(out, tmp_path / 'new')
  (tmp_path / 'new' / share.NAME).unlink()
  (tmp_path / 'new' / checksums.NAME).unlink()
  params = jax.tree.map(lambda x: x + 1, params_of(out))
  share.write(tmp_path / 'new', params, 4)
  with pytest.raises(UserError, match='is a copy of another folder than'):
    sharing.fetch(str(out), str(tmp_path / 'new'))


def test_the_config_of_a_kept_autoencoder_names_no_place(run, tmp_path):
  kept = tmp_path / 'autoencoder'
  sharing._write_kept(run, kept)
  text = (kept / 'config.json').read_text()
  assert '/home/me' not in text and '"init_from": "a"' in text


def test_a_shared_folder_is_not_converted(out, tmp_path, capsys):
  args = '--mode=convert', f'--workdir={tmp_path / "new"}'
  assert command(*args, f'--config.convert.source={out}') == 2
  assert f'needs no conversion: --config={out}' in capsys.readouterr().err


def test_two_files_of_two_models_are_refused(out, tmp_path, capsys):
  """The config.json is of a larger network than the weights."""
  shutil.copytree(out, tmp_path / 'hub')
  path = tmp_path / 'hub' / 'config.json'
  content = json.loads(path.read_text())
  content['network']['channels'] += 8
  write_json(path, content)
  assert command(f'--config={path.parent}', '--mode=sample', *QUICK) == 2
  said = capsys.readouterr().err
  assert 'is of another network: network/' in said and said.count('\n') == 1


def test_a_folder_with_files_is_not_written_into(run, tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  assert write(run, tmp_path / 'empty') == 0
  assert write(run, tmp_path / 'empty') == 2
  assert 'exists and is not empty: give a new folder' in capsys.readouterr().err


def test_a_folder_needs_no_pictures(run, tmp_path, capsys):
  model = models.make(store.open_run(run), run)
  params = params_of(run)
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


def test_a_bar_in_a_value_ends_no_cell(run):
  model = models.make(of_run(run), run)
  stored = sharing.config_of(model) | {'network': {'name': 'a|b'}}
  about = model_card.About('digits', model, stored, 1, 4, '', [])
  assert 'a\\|b' in model_card.text(about)
