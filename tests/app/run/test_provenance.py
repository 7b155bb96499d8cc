"""A result's settings and name depend on each thing that it is made of, and on nothing else."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import code_sums, drawings, images, reads, small_sets
from diffusion_jax.data.sources import content_sum
from diffusion_jax.errors import UserError
from diffusion_jax.report import results
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import as_flags, of_run, refused, smoke, stored_run, trial, untrained
from tests.app.fields import typed, within
from tests.data.test_npz import packed

SETTINGS = {
  'run': 'digits',
  'sampling': {
    'checkpoint': 300,
    'sampler': {'name': 'ddim', 'eta': 0.0},
    'grid': {'name': 'steps', 'number': 50, 'spacing': 'uniform'},
    'seed': 1,
    'guidance': {'name': 'classifier_free', 'scale': 2.0},
    'classifier': None,
  },
}


def test_a_line_has_what_differs_from_the_plain_case():
  assert provenance.describe(SETTINGS) == (
    line := 'settings: digits, checkpoint 300, ddim eta=0, 50 steps, classifier_free 2, seed 1'
  )
  read = 'bad, checkpoint 4, weights 1, config_hash 2, code 3'
  sampler = {'name': 'feynman_kac', 'scale': 2.0, 'run': read, 'absent': None, 'unset': ''}
  sampling = {'sampler': sampler, 'guidance': None, 'grid': {'name': 'steps', 'number': 1}}
  corrected = {**SETTINGS, 'sampling': SETTINGS['sampling'] | sampling}
  expected = line.replace('ddim eta=0, 50 steps', 'feynman_kac scale=2 run=bad, 1 step')
  expected = expected.replace(', classifier_free 2', '')
  assert provenance.describe(corrected) == expected


OTHERS = {
  'sampler': {'name': 'ddim', 'eta': 1.0},
  'grid': {'name': 'steps', 'number': 50, 'spacing': 'logsnr'},
  **dict.fromkeys(('schedule', 'churn', 'ancestral_noise', 'corrector'), {'name': 'other', 'x': 1}),
  **dict.fromkeys(('guidance', 'classifier'), {'name': 'other', 'scale': 2.0}),
  'guidance_scale': 2.0,
}


@pytest.mark.parametrize('field', OTHERS)
def test_pictures_that_are_drawn_otherwise_have_another_line(field):
  """The FD of Heun's method in 10 steps of a cosine is 47, and 0.75 at even log-SNRs."""
  other = SETTINGS['sampling'] | {field: OTHERS[field]}
  assert provenance.describe(SETTINGS | {'sampling': other}) != provenance.describe(SETTINGS)
  assert results.about(other, {}) != results.about(SETTINGS['sampling'], {})


def place_of(workdir, settings, given=False, end='.npz'):
  with provenance.making(
    RunFolder.at(workdir), Path('x/a=0.5'), settings, 'f.name', given, end
  ) as place:
    return place


@pytest.mark.parametrize('end', ['.npz', '/result.json'])
def test_results_are_named_by_their_settings(tmp_path, end):
  """The hash is a SHA-256 of canonical JSON, with other tools too: printf | sha256sum."""
  path, parts, done, _ = place_of(tmp_path, {'b': 1.0, 'a': [0.5, None, 'é'], 'run': 'a'}, end=end)
  text = '{"a": [0.5, null, "\\u00e9"], "b": 1}'
  code = hashlib.sha256(f'{len(text)}:{text}'.encode()).hexdigest()[:8]
  assert path == tmp_path / f'x/a=0.5-{code}{end}' and not done
  assert parts == path.with_suffix('.parts')
  same = {'run': 'moved', 'a': (0.5, None, 'é'), 'b': 1}
  assert place_of(tmp_path, same, end=end).path == path
  others = {'a': [0.25, None, 'é'], 'b': 1}, {'a': [None, 0.5, 'é'], 'b': 1}, {'b': 1}, {}
  assert len({path, *(place_of(tmp_path, x, end=end).path for x in others)}) == 5


def test_all_hosts_take_the_name_of_the_first(tmp_path, monkeypatch):
  first = np.arange(4)
  monkeypatch.setattr(provenance.processes, 'broadcast', lambda x: first[: len(x)])
  assert place_of(tmp_path, SETTINGS).path.name == 'a=0.5-00010203.npz'


@pytest.mark.parametrize('end', ['.npz', '/result.json'])
def test_a_name_of_the_users_is_refused_for_other_settings(tmp_path, end):
  path, parts, *_ = place_of(tmp_path, SETTINGS, True, end)
  assert path == tmp_path / f'x/a=0.5{end}'
  other = SETTINGS | {'sampling': SETTINGS['sampling'] | {'seed': 2}}
  assert place_of(tmp_path, other, True, end).parts != parts  # both may be continued
  if end == '.npz':
    np.savez(path, settings=provenance.as_array(SETTINGS))
  else:
    path.write_text(json.dumps({'settings': SETTINGS}))
  assert provenance.read(path) == SETTINGS
  assert place_of(tmp_path, SETTINGS | {'run': 'moved'}, True, end).done
  message = r'other settings: sampling.seed is 1, 2 now. Delete it, .*--config.f\.name'
  refused(message, place_of, tmp_path, other, True, end)


BASE = {'sampling.sampler': 'heun', 'sampling.guidance.scale': 3.0}


NAMES = """
sampling.num_steps=20 sampling.labels=3,7 => -labels=3,7,num_steps=20
sampling.sampler=dpm_solver_pp => -sampler=dpm_solver_pp
sampling.sampler=ddim sampling.sampler.eta=0.5 => -sampler=ddim,sampler.eta=0.5
sampling.guidance=None => -guidance=None
sampling.guidance.scale=2.0 => -guidance.scale=2.0
sampling.churn.s_churn=1.0 => -churn=edm,churn.s_churn=1.0
network.dtype=bfloat16 => -network.dtype=bfloat16
"""
ROWS = [row.split(' => ') for row in NAMES.strip().splitlines()]


@pytest.mark.parametrize(
  'changes, expected',
  [
    ({}, ''),
    *((typed(fields), name) for fields, name in ROWS),
    ({'sampling.prompt': 'a/../b | ä'}, '-prompt=a_.._b____'),
    ({'sampling.prompt': 'ab' * 99}, '-prompt=' + 'ab' * 67 + 'a'),
  ],
)
def test_samples_are_named_by_what_differs_from_the_run(changes, expected, tmp_path):
  """The defaults of another choice are left out; the name is a file's."""
  config = smoke(**BASE)
  folder.write_config(
    RunFolder.at(tmp_path), config, make_model(config, RunFolder.at(tmp_path)).facts
  )
  name = lambda config: provenance.name_of(make_model(config, RunFolder.at(tmp_path)))
  config = store.with_flags(config, [*as_flags(changes)])
  assert name(config) == f'samples{expected}'


def test_edits_are_named_by_what_is_set(tmp_path):
  config = smoke()
  folder.write_config(
    RunFolder.at(tmp_path), config, make_model(config, RunFolder.at(tmp_path)).facts
  )
  name = lambda config: provenance.name_of_edit(make_model(config, RunFolder.at(tmp_path)))
  changes = {'edit': 'restore', 'edit.operator': 'blur', 'edit.noise': 5}
  changes |= {'edit.image': 'in/a.png', 'sampling.num_steps': 20}
  config = store.with_flags(config, [*as_flags(changes)])
  assert name(config) == (
    'restore-image=a.png,noise=5.0,num_steps=20,operator=blur,posterior=moment'
  )


@pytest.mark.parametrize('content', [b'', b'PK damaged', None])
def test_a_file_without_settings_has_none(tmp_path, content):
  path = tmp_path / 'samples.npz'
  if content is None:
    np.savez(path, arr_0=np.zeros(2))
  else:
    path.write_bytes(content)
  assert provenance.read(path) == {}


def test_settings_that_claim_much_memory_are_not_read(tmp_path):
  """A stranger's file of 300 kB, whose settings would take 300 MB."""
  path = packed(tmp_path / 'a.npz', (75_000_000,), name='settings.npy', size=3 * 10**8)
  tracemalloc.start()
  assert provenance.read(path) == {}
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 5e6
  np.savez(path, settings=provenance.as_array({'a': 'x' * 10**6}))
  assert len(provenance.read(path)['a']) == 10**6


def finish(path, place):
  path.parent.mkdir(exist_ok=True, parents=True)
  np.savez(path, settings=provenance.as_array(place.finished()))


@pytest.mark.parametrize('given', [False, True])
def test_what_was_read_for_a_result_is_looked_at_again(given, tmp_path, monkeypatch, capsys):
  """It is made again; a file with the user's name is refused, in a line that names what changed."""
  monkeypatch.setattr(reads, '_found', {'a.txt': '1'})
  monkeypatch.setattr(reads, '_opened', {'a.txt': None})
  monkeypatch.setattr(reads, 'identity', {'a.txt': '1'}.get)
  monkeypatch.setattr(reads, '_hooks', [1])
  place = place_of(tmp_path, SETTINGS, given)
  finish(place.path, place)
  assert provenance.read(place.path)['opened'] == {'a.txt': '1'}
  assert place_of(tmp_path, SETTINGS, given).done
  monkeypatch.setattr(reads, 'identity', {'a.txt': '2'}.get)
  if given:
    refused('other settings: opened.a.txt is 1, 2 now', place_of, tmp_path, SETTINGS, given)
  else:
    again = place_of(tmp_path, SETTINGS)
    assert again.path == place.path and not again.done
    assert 'is made again: a.txt is 1, 2 now' in capsys.readouterr().out


def test_scores_depend_on_what_was_read_for_their_samples(tmp_path, monkeypatch):
  """They are made again then, also in a process that draws no sample."""
  monkeypatch.setattr(reads, '_opened', {})

  def place_for(value):
    drawn = tmp_path / 'drawn.npz'
    np.savez(drawn, settings=provenance.as_array(SETTINGS | {'opened': {'a.txt': value}}))
    settings = provenance.of_scores(drawn, {}, {})
    assert provenance.finished(settings)['opened']['a.txt'] == value
    return place_of(tmp_path, settings)

  first = place_for('1')
  finish(first.path, first)
  assert place_for('1').done
  assert place_for('2').path == first.path and not place_for('2').done


# -- what kept results name --------------------------------------------------


class Found(Exception):
  """Ends a mode as soon as the settings of its results are known."""


@pytest.fixture
def settings(monkeypatch):
  """Returns (mode, config, run) -> the settings of what the mode keeps."""

  def found(workdir, name, settings, *args, **named):
    raise Found(settings)

  def restored(model):
    return {'network': np.ones(2)}, model.config.sampling.checkpoint

  monkeypatch.setattr(weights, 'restore', restored)
  monkeypatch.setattr(weights.Run, 'on_devices', {})
  monkeypatch.setattr(provenance, 'making', found)

  def of(mode, config, run, given=()):
    start: Any = MODES[mode]
    with pytest.raises(Found) as error:
      start(config, str(run), given=given)
    return error.value.args[0]

  return of


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Makes runs, and files that they may be given."""
  place = tmp_path_factory.mktemp('kept')
  rng = np.random.default_rng(0)
  for name in ('image', 'image2', 'other'):
    drawings.write_png(place / f'{name}.png', rng.integers(0, 256, (8, 8, 1), 'u1'))
  mask = np.zeros((8, 8, 1), np.uint8)
  mask[:4] = 255
  drawings.write_png(place / 'mask.png', mask)
  np.save(place / 'y.npy', rng.normal(size=(2, 2)))
  np.save(place / 'A.npy', rng.normal(size=(8, 64)))
  np.save(place / 'Ax.npy', np.zeros(8))
  few = within('data', num_examples=100, num_test=16)
  few |= {'sampling.checkpoint': 'latest', 'training.checkpoints.best': None}
  untrained(smoke(), place / 'digits')  # which guides
  for name, config in {
    'pairs': trial('two_moons', **few),
    'masked': smoke(**{'conditioning.image': 'inpaint'}),
    'texts': trial('shapes_text'),
    'vae': trial('digits_vae'),
  }.items():
    facts = make_model(config, RunFolder.at(place / name)).facts
    folder.write_config(RunFolder.at(make_folder(place / name)), config, facts)
  return place


def kinds_of(files):
  """Returns {kind: (mode, run, fields)} of all that is kept."""
  place, digits, pairs = files, files / 'digits', files / 'pairs'
  image = {'edit.image': str(place / 'image.png')}
  mask = {'edit.mask': str(place / 'mask.png')}
  image2 = {'edit.image2': str(place / 'image2.png')}
  guided = within('sampling.guidance', 'autoguidance', run=str(digits), scale=2)
  many = {'sampling.sampler': 'ancestral', 'sampling.corrector': 'langevin'}
  known = {'edit.operator': 'mask'} | within('edit.operator', mask=str(place / 'mask.png'))
  matrix = within('edit.operator', 'matrix', path=str(place / 'A.npy'))
  matrix |= {'edit.image': str(place / 'Ax.npy')}
  own = {'edit.reward': f'{__name__}:brightness_of_a_file'}
  own |= {'edit.reward.path': str(place / 'y.npy')}
  evaluation = {'evaluation.num_images': 3}
  return {
    'samples': ('sample', digits, many),
    'guided': ('sample', digits, guided),
    'contexts': ('sample', pairs, {}),
    'given': ('sample', pairs, {'sampling.context': str(place / 'y.npy')}),
    'sdedit': ('edit', digits, {'edit': 'sdedit'} | image | mask),
    'inpaint': ('edit', digits, {'edit': 'inpaint'} | image | mask),
    'interpolate': ('edit', digits, {'edit': 'interpolate'} | image | image2),
    'restore': ('edit', digits, {'edit': 'restore'} | image | known),
    'matrix': ('edit', digits, {'edit': 'restore'} | matrix),
    'steer': ('edit', digits, {'edit': 'steer'} | own),
    'elbo': ('evaluate', digits, {'evaluation.metrics': 'elbo'} | evaluation),
    'pixels': ('evaluate', digits, {'evaluation.metrics': 'independent_pixels'} | evaluation),
    'fd': ('evaluate', digits, {'evaluation.metrics': 'fd', 'evaluation.features': 'pixels'}),
    'sbc': ('evaluate', pairs, {'evaluation.metrics': 'sbc'}),
    'masked': ('sample', place / 'masked', {}),
    'texts': ('sample', place / 'texts', {}),
    'vae': ('sample', place / 'vae', {}),
  }


def brightness_of_a_file(x0, path: str = ''):
  """Returns a user's reward, whose file changes it."""
  return x0.mean(axis=(1, 2, 3)) * np.load(path).sum()


# Fields that do not change a result, by kinds of results, and why.
FREE = (
  ('.*', 'sampling.name|edit.output|evaluation.name', 'they name files'),
  ('.*', 'sampling.profile', 'it writes a trace'),
  ('.*', 'evaluation.sweep', 'it chooses points, each with its settings'),
  ('elbo|pixels', 'sampling.(?!clip|sampler.variance).*', 'nothing is drawn'),
  ('fd|sbc', 'evaluation.*', 'they say how scores are made of what is kept'),
  ('matrix|restore|sdedit|steer|in.*', 'sampling.*', 'as in samples, by `of_sampling`'),
)
MODES_READ = {
  'sample': ('sampling', 'matmul_precision'),
  'edit': ('edit', 'sampling', 'matmul_precision'),
  'evaluate': ('evaluation', 'sampling', 'matmul_precision'),
}
TEXTS = '3', '0.25', 'True', 'False', '2', '0.5', '1,1', '0', 'zz'


def changed(config, field):
  """Yields configs with other values of a field, those that its type allows."""
  texts, before = [*TEXTS], folder.plain(config)
  for text in texts:
    try:
      new = store.with_flags(config, [(field, text)])
    except UserError as error:
      names = re.search('is not one of (.*)', str(error))
      texts += names[1].split(', ') if names and text == 'zz' else []
      continue
    if folder.plain(new) != before:
      yield new


def config_of(run, fields):
  return smoke(**fields) if run.name == 'digits' else of_run(run, **fields)


KINDS = 'samples', 'given', 'steer', 'elbo'
# Of the same sections, with other choices.
LIKE_THEM = (
  *('sdedit', 'interpolate', 'guided', 'contexts', 'inpaint', 'restore', 'matrix', 'pixels'),
  *('fd', 'sbc'),
)
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in LIKE_THEM]


@pytest.mark.parametrize('kind', [*KINDS, *SLOW])
def test_each_field_is_named_refused_or_free(kind, files, settings):
  """A result of other fields is not taken over."""
  mode, run, fields = kinds_of(files)[kind]
  config = config_of(run, fields)
  before, named = settings(mode, config, run), []
  assert settings(mode, config, run) == before
  for field in config.paths():
    if not field.startswith(MODES_READ[mode]) or any(
      re.fullmatch(k, kind) and re.fullmatch(fields, field) for k, fields, _ in FREE
    ):
      continue
    for new in changed(config, field):
      with contextlib.suppress(UserError):  # It is refused: try another value.
        assert settings(mode, new, run, [field]) != before, field
        named.append(field)
        break
  assert len(named) > 2


@pytest.mark.parametrize('kind, name', [
  ('given', 'y.npy'), ('sdedit', 'mask.png'),
  ('interpolate', 'image2.png'), ('restore', 'mask.png'), ('matrix', 'A.npy'),
  ('steer', 'y.npy'), ('guided', 'digits'),
])  # fmt: skip
def test_a_file_is_named_by_its_content(kind, name, files, settings, tmp_path):
  """Settings name a file by its content and a guiding run by its weights, not by a path."""
  place = shutil.copytree(files, tmp_path / 'place')
  mode, run, fields = kinds_of(place)[kind]
  config = config_of(run, fields)
  before, path = settings(mode, config, run), place / name
  if path.is_dir():
    shutil.rmtree(path)
    untrained(smoke(), path, deviation=0.1)
  elif path.suffix == '.npy':
    np.save(path, 1.0 + np.load(path))
  else:
    drawings.write_png(path, 255 - images.read_image(path))
  after = settings(mode, config, run)
  assert after != before
  assert str(place) not in json.dumps(after)  # no path of this machine


READ = """
contexts data.draws=3
sbc data.draws=3
given data.draws=3 not
masked data.quarter_turns=1
texts data.num_objects=1
vae data.quarter_turns=1
pixels data.quarter_turns=1
samples data.quarter_turns=1 not
"""


@pytest.mark.parametrize('row', READ.strip().splitlines())
def test_data_are_named_by_what_was_read(row, files, settings):
  kind, field, *unread = row.split()
  mode, run, fields = kinds_of(files)[kind]
  before = settings(mode, config_of(run, fields), run)
  after = settings(mode, config_of(run, fields | typed(field)), run)
  assert (after == before) == bool(unread)


def test_a_metric_names_all_splits_that_it_reads(files, settings):
  mode, run, fields = kinds_of(files)['pixels']
  read = settings(mode, config_of(run, fields), run)['read']
  source = small_sets.digits()
  assert read['train'] == content_sum(source)
  assert read['examples'] == content_sum(small_sets.digits('test'), 3)
  other = dataclasses.replace(source, x=np.copy(source.x))
  other.x[1000, 0, 0] ^= 1
  assert content_sum(other) != content_sum(source)


def test_every_field_of_a_run_is_in_its_hash_or_free(tmp_path):
  """matmul_precision is free to change, and is named by itself."""
  config = smoke()
  path = stored_run(tmp_path / 'run', config)
  hashed = roles.config_hash(RunFolder.at(path))
  for field, value in folder.flat(folder.plain(config)).items():
    if not field.startswith(roles.FREE):
      other = stored_run(tmp_path / 'other', config, **{field: [value, 1]})
      assert roles.config_hash(RunFolder.at(other)) != hashed, field


# Packages that compute no number of a result: what they read or write is compared by its content.
OF_NO_NUMBER = {
  *(
    'absl',
    'ml_collections',
    'tqdm',
    'jinja2',
    'starlette',
    'uvicorn',
    'tensorboardX',
    'matplotlib',
  ),
  *('etils', 'filelock', 'fsspec', 'grain', 'orbax', 'pyarrow', 'requests', 'safetensors'),
  *('tensorflow_datasets', 'threadpoolctl', 'torch'),
}


def test_every_package_that_computes_numbers_is_in_the_settings():
  """A package that is new to this one gets a place."""
  names = set()
  for path in code_sums.PACKAGE.rglob('*.py'):
    for level, words in code_sums._imports_in(path.read_bytes()):
      names |= {words[0]} if not level else set()
  names -= {*sys.stdlib_module_names, 'diffusion_jax'}
  distributions = {'PIL': 'pillow', 'sklearn': 'scikit-learn'}
  numbers = {distributions.get(name, name) for name in names - OF_NO_NUMBER}
  assert names > OF_NO_NUMBER
  assert numbers | {'jaxlib', 'diffusion_jax'} == {*provenance._PACKAGES}
