"""The report of a smoke run: what is drawn for it, and what cannot be."""

import re
import shutil
from typing import Any

import numpy as np
import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import report
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.report import page
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import checksums
from tests.app.conftest import smoke, stored_run, trial
from tests.app.fields import within
from tests.report.test_page import Page


def test_a_training_ends_with_a_report(run):
  found = Page((run / 'report.html').read_text())
  assert found.text['h1'] == ['digits-smoke']
  sections = [section['id'] for section in found.all('section')]
  assert sections == ['samples', 'trajectory', 'curves', 'neighbours', 'config', 'environment']
  labels = [image['alt'] for image in found.all('img')]
  assert labels[0].endswith('step 4') and 'step 4 of 4' in labels[1]
  assert 'of 200 test images' in labels[2]
  assert not list(run.glob('*.tmp'))


def test_a_report_is_of_the_step_that_is_sampled(run, tmp_path):
  """Frames that the training has drawn are of its last step."""
  copy = shutil.copytree(run, tmp_path / 'run')

  def of_the_last_step():
    raise AssertionError

  chosen = smoke(**{'report.after_training': True, 'sampling.checkpoint': '2'})
  report.after_training(chosen, RunFolder.at(copy), of_the_last_step)
  found = Page((copy / 'report.html').read_text())
  text = ' '.join(found.text['body'])
  assert '2 is sampled' in text and 'seed 0, checkpoint 2' in text
  assert 'ampling uses step 2, and not the last one, 4.' in found.text['p'][2]
  (record,) = report.read_runs([RunFolder.at(copy)])
  shown = {tile.name: tile for tile in page.tiles(record._replace(sampled=2))}
  assert shown['test loss'].value == f'{record.curves["test_loss"].at(2):.4g}'
  assert shown['steps'] == ('steps', '4', '2 is sampled')


def test_fields_that_the_config_sets_are_the_differences(run):
  """The first table has what differs from the defaults of sections and the default choices."""
  (this,) = report.read_runs([RunFolder.at(run)])
  defaults = report.defaults(smoke())
  differing, every = page.config_tables([this], defaults, report.APART, report.as_flag)
  rows = differing.rows
  sections = {name.partition('.')[0] for name, _ in every.rows[1:]}
  assert {'training', 'sampling', 'evaluation'} <= sections
  assert not sections & {'edit', 'serve', 'convert', 'facts', 'compilation_cache'}
  fields = {name: (now, default) for name, now, default in rows[1:]}
  assert fields['network.channels'] == ('8', '16')  # of SmallNetwork
  assert fields['sampling.sampler'] == ('ddim', 'ancestral')
  assert fields['sampling.sampler.eta'] == ('1.0', '0.0')
  assert fields['training.num_steps'] == ('4', '1000')
  same = {'seed', 'schedule.start', 'optimizer.b1', 'network.dropout'}
  same |= {'schedule', 'objective', 'optimizer'}
  assert not same & set(fields)
  # Typed as flags they are the run.
  flags = [(name, now) for name, (now, _) in fields.items()]
  typed = folder.flat(folder.plain(store.with_flags(smoke(), flags)))
  kept = {name: x for name, x in typed.items() if not name.startswith(tuple(report.APART))}
  assert len(kept) > 100 and {name: this.fields[name] for name in kept} == kept


@pytest.mark.parametrize('name', ['digits_vae', 'digits_latent', 'shapes_text'])
def test_the_defaults_have_the_fields_of_every_kind_of_model(name):
  """The table of defaults lacks only the choice of data and of parts that are off."""
  config = trial(name)
  fields = set(folder.flat(folder.plain(config)))
  parts = {'data', 'latent', 'conditioning.text', 'sampling.guidance', 'training.checkpoints.best'}
  optional = {f'{part}.name' for part in parts} | {'sampling.bound'}
  assert fields - set(report.defaults(config)) <= optional


def test_a_report_that_fails_is_a_line(run, capsys, monkeypatch):
  """test_kept_files.py has damaged files, which are left out."""

  def fail(*args):
    raise RuntimeError('no\nmemory')

  monkeypatch.setattr(report, 'write', fail)
  report.after_training(smoke(**{'report.after_training': True}), RunFolder.at(run))
  said = capsys.readouterr().out
  assert said == 'no report was written: no memory. To try again: --mode=report\n'


def made(run, name, **sampling):
  """Writes samples/<name>.npz as --mode=sample does, with grey pictures."""
  config = smoke(**within('sampling', **sampling))
  settings = folder.plain(config)['sampling'] | {'checkpoint': '4'}
  path = run / 'samples' / f'{name}.npz'
  path.parent.mkdir(exist_ok=True)
  pictures = np.full((30, 8, 8, 1), 200, np.uint8)
  np.savez(path, arr_0=pictures, settings=provenance.as_array({'sampling': settings}))
  return path


def test_the_gallery_has_every_file_of_samples(run, tmp_path, capsys):
  shutil.copy(run / 'config.json', tmp_path)
  made(tmp_path, 'a', sampler='ddim', num_steps=4)
  made(tmp_path, 'b_c', sampler='heun', num_steps=3, seed=5)
  (tmp_path / 'samples' / 'c.npz').write_bytes(b'damaged')
  gallery: Any = report.gallery(Run.open(smoke(), RunFolder.at(tmp_path)))
  first, second, table = gallery
  assert [first.title, second.title] == ['a', 'b_c']
  assert first.frames[0][1] == (
    'ddim eta=1, 4 steps, 16 of checkpoint 4, seed 0, 4 calls of the network'
  )
  rows = {name: values for name, *values in table.rows}
  assert rows['field'] == ['a', 'b_c'] and rows['calls'] == ['4', '5']
  assert rows['sampling.seed'] == ['0', '5'] and rows['sampling.sampler'][1] == 'heun'
  assert rows['sampling.num_steps'] == ['4', '3'] and 'sampling.batch_size' not in rows
  said = capsys.readouterr().out
  assert said.startswith('the report leaves out c.npz: ') and 'b_c' not in said


@pytest.mark.parametrize(
  'calls, fields',
  [
    (5, {'sampler': 'dpm_solver_pp_2s'}),
    (7, {'sampler': 'ddim', 'num_steps': 7}),
    (6, {'sampler': 'ddim', 'corrector': 'langevin'}),
    (None, {'sampler': 'adaptive_ode'}),
    (None, None),
  ],
)
def test_calls_are_those_of_the_table_of_samplers(calls, fields, tmp_path):
  """N, or 2N - 1, in docs/samplers.md; a corrector calls at each step; unknown to a tolerance."""
  several = fields and smoke(**within('sampling', **{'num_steps': 3} | fields))
  model = make_model(several or trial('digits_vae'), RunFolder.at(tmp_path))
  assert report.count_calls(model) == calls


MANY = {'corrector': 'langevin', 'corrector.steps': 10**9}


@pytest.mark.parametrize(
  'fields',
  [
    MANY | {'num_steps': 10**5, 'corrector.steps': 20},
    {'grid': 'respaced', 'grid.steps': '1000000000'},
    MANY,
  ],
)
def test_the_calls_of_a_strangers_sampler_are_not_counted(fields, tmp_path):
  run = Run.open(smoke(), RunFolder.at(tmp_path))
  folder.write_config(RunFolder.at(tmp_path), run.model.config, run.model.facts)
  assert report.drawn_by(run, made(tmp_path, 'a', **fields), 'a')[2]['calls'] is None


def test_samples_of_the_run_are_compared_with_its_own_images(tmp_path):
  """Training images as samples are their own neighbours."""
  config = smoke()
  model = make_model(config, RunFolder.at(tmp_path))
  real = datasets.source_of(config).read(np.arange(12))['x']
  pictures = np.rint(real * (255 / 16)).astype(np.uint8)
  folder.write_config(RunFolder.at(tmp_path), config, model.facts)
  (tmp_path / 'samples').mkdir()
  of_ours = provenance.as_array({'weights': checksums.of_arrays({'a': np.zeros(1)})})
  np.savez(tmp_path / 'samples' / 'a.npz', arr_0=pictures, settings=of_ours)
  np.savez(tmp_path / 'samples' / 'b.npz', arr_0=255 - pictures)  # of other weights, newer
  run = Run(model)
  vars(run)['checkpoint'] = {'a': np.zeros(1)}, 4
  film = report.neighbours(run, None)
  near, far = map(float, re.findall(r' (\d\.\d+)', film.frames[0][1]))
  assert near < 1 / 255 and far > 0.1  # rounded to 256 levels


def test_runs_of_one_name_are_called_by_their_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a', 'b', 'x/a'):
    stored_run(tmp_path / name)
  names = lambda *paths: [found.name for found in report.read_runs([*map(RunFolder.at, paths)])]
  assert names('a', 'b/') == ['a', 'b']
  assert names('a', 'x/a') == ['a', 'x/a']


def test_a_stored_config_imports_nothing_of_its_own_accord(tmp_path):
  """A report reads only the numbers of further runs, and imports none of their modules."""
  stored_run(tmp_path, network={'name': 'no_such_module:Net'})
  (other,) = report.read_runs([RunFolder.at(tmp_path)])
  assert other.fields['network.name'] == 'no_such_module:Net'
