"""Folders to be shared, from convert.to=huggingface to --config."""

import json
import shutil

import jax
import pytest
import yaml
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.app.kinds import store
from diffusion_jax.app.run import sharing
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.report import card
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.run_folder import SHARED, RunFolder
from diffusion_jax.weights import checksums, share
from tests.app.conftest import arrays_of, params_of, refused, smoke
from tests.app.fields import within
from tests.app.run.conftest import QUICK, command, sample, write


@pytest.fixture
def copy(shared, tmp_path):
  return shutil.copytree(shared, tmp_path / 'copy')


def refusal(capsys, *args):
  """Runs a command line that is refused; returns the line that it prints."""
  assert command(*args, *QUICK) == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  return said


def pictures(workdir):
  [path] = (workdir / 'samples').glob('*.npz')
  return arrays_of(workdir, path.stem)['arr_0']


def test_a_copy_samples_the_same_pictures(evaluated, copy, tmp_path, capsys):
  workdir = tmp_path / 'new'
  for _ in range(2):
    sample(copy, f'--workdir={workdir}')
  assert 'is there already, made with these settings' in capsys.readouterr().out
  assert_array_equal(pictures(workdir), pictures(evaluated))
  assert pictures(evaluated).std() > 0
  sample(copy)  # in the folder itself
  assert_array_equal(pictures(copy), pictures(evaluated))


def test_the_folder_names_no_place(evaluated, shared):
  names = 'README.md config.json model.safetensors SHA256SUMS samples.png'
  assert {path.name for path in shared.iterdir()} == {*names.split()}
  stored = json.loads((shared / 'config.json').read_text())
  assert stored['training']['start']['run'] == 'a'
  assert not {'convert', 'report', 'compilation_cache'} & stored.keys()
  assert '/home/me' not in (shared / 'config.json').read_text()


def without_weights(out):
  (out / SHARED).unlink()


def importing(out):
  content = json.loads((out / 'config.json').read_text())
  content['network'] = {'name': 'their_module:Network'}
  write_summed(out / 'config.json', content)


WRONG = {
  without_weights: 'has a config.json and no weights',
  importing: "config.network='their_module:Network' would be imported",
}


@pytest.mark.parametrize('damage', WRONG)
def test_a_wrong_folder_is_one_line(damage, copy, tmp_path, capsys):
  damage(copy)
  args = '--mode=sample', f'--workdir={tmp_path / "new"}'
  assert WRONG[damage] in refusal(capsys, f'--config={copy}', *args)
  assert not (tmp_path / 'new').exists()


REFUSED = {
  'shared weights and no state to continue': '--mode=train',
  'only a training can change this': '--mode=sample --workdir={new} --config.network.dropout=0.3',
  'is a copy of another folder than': '--mode=sample --workdir={other}',
  'has one set of weights': '--mode=sample --config.sampling.weights=raw',
}


@pytest.mark.parametrize('message', REFUSED)
def test_wrong_use_is_one_line(message, shared, copy, tmp_path, capsys):
  content = json.loads((shared / 'config.json').read_text())
  write_summed(copy / 'config.json', content | {'seed': 5})
  args = REFUSED[message].format(new=tmp_path / 'new', other=copy).split()
  assert message in refusal(capsys, f'--config={shared}', *args)
  assert not (tmp_path / 'new').exists()


def test_config_json_makes_the_copy_a_run_and_is_last(tmp_path):
  for name in ('config.json', SHARED, checksums.NAME, 'latent.json'):
    (tmp_path / name).touch()
  assert [*sharing._parts(tmp_path)][-1].name == 'config.json'


def test_a_copy_of_other_weights_under_the_same_config_is_refused(shared, copy):
  (copy / SHARED).unlink()
  (copy / checksums.NAME).unlink()
  share.write(copy, jax.tree.map(lambda x: x + 1, params_of(shared)), 4)
  refused(
    'is a copy of another folder than',
    sharing.fetch,
    RunFolder.at(shared),
    RunFolder.at(copy),
  )


def test_the_config_of_a_kept_autoencoder_names_no_place(evaluated, tmp_path):
  sharing._write_kept(evaluated, tmp_path / 'autoencoder')
  text = (tmp_path / 'autoencoder' / 'config.json').read_text()
  assert '/home/me' not in text and '"run": "a"' in text


def test_a_shared_folder_is_not_converted(shared, tmp_path, capsys):
  args = '--mode=convert', f'--workdir={tmp_path / "new"}', f'--config.convert.source={shared}'
  assert f'needs no conversion: --config={shared}' in refusal(capsys, *args)


def test_two_files_of_two_models_are_refused(copy, capsys):
  """The config.json is of a larger network than the weights."""
  content = json.loads((copy / 'config.json').read_text())
  content['network']['channels'] += 8
  write_summed(copy / 'config.json', content)
  said = refusal(capsys, f'--config={copy}', '--mode=sample')
  assert 'is of another network: network/' in said


def test_a_folder_with_files_is_not_written_into(evaluated, tmp_path, capsys):
  assert write(evaluated, tmp_path) == 0
  assert write(evaluated, tmp_path) == 2
  assert 'exists and is not empty: give a new folder' in capsys.readouterr().err


def test_a_folder_needs_no_pictures(evaluated, tmp_path, capsys):
  model = make_model(store.open_run(RunFolder.at(evaluated)), RunFolder.at(evaluated))
  other = jax.tree.map(lambda x: x + 1, params_of(evaluated))  # which has drawn nothing
  sharing.write(tmp_path / 'out', model, other, 4)
  assert 'no samples.png: --mode=sample has drawn' in capsys.readouterr().out
  assert not (tmp_path / 'out' / 'samples.png').exists()
  text = (tmp_path / 'out' / 'README.md').read_text()
  assert 'samples.png' not in text and 'have not been evaluated' in text


def test_paths_become_names():
  fields = within('data', 'csv', path='/home/me/x/', x=('a/b',), context=('km/h',))
  data = smoke(**fields).without_folders().data
  assert (data.path, data.x, data.context) == ('x', ('a/b',), ('km/h',))
  assert smoke(**within('data', 'photos', paths=('/c/d',))).without_folders().data['paths'] == (
    'd',
  )


def test_the_card_is_what_the_hub_reads(shared):
  _, head, text = (shared / 'README.md').read_text().split('---\n', 2)
  head = yaml.safe_load(head)
  assert head['license'] == 'unknown' and 'datasets' not in head  # the hub has no digits
  assert head['library_name'] == 'diffusion_jax'
  assert head['pipeline_tag'] == 'unconditional-image-generation'
  [index] = head['model-index']
  assert index['name'] == 'digits-small'
  [result] = index['results']
  assert result['dataset'] == {'type': 'other', 'name': 'digits'}
  found = {x['type']: x['value'] for x in result['metrics']}
  assert found == {'elbo': 3.14159, 'fid': 12.5}
  assert '| ELBO | 3.142\xa0±\xa00.020 | elbo-test: 1,000 test images; bits/dim |' in text
  assert '| FID | 12.5 | samples: 50 of checkpoint None, seed 0; of 50 |' in text
  assert '![samples](samples.png)' in text and '## Licence' in text
  with Image.open(shared / 'samples.png') as image:
    assert image.size[0] > 8 * 10


def test_scores_of_other_weights_are_left_out(evaluated, capsys):
  assert not [*card.scores_of(evaluated, 1, 'images', {})]
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2 and 'elbo-test is of other weights' in said[0]
