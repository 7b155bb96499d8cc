"""What a stored config may name: it executes nothing, and reads no path."""

import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest

from diffusion_jax import paths
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.mode import choose_cond
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import other_runs, roles, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import bands
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import prepare
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_user_parts import PLACES, TOY, nothing_is_allowed, plain
from tests.app.conftest import read, refused, smoke, stored_run

__all__ = ['nothing_is_allowed']  # a fixture of each test


@pytest.fixture
def payload(tmp_path, monkeypatch):
  """Yields a name, 'module:part', whose import creates the file `executed`."""
  monkeypatch.chdir(tmp_path)
  module = f'payload_{tmp_path.parent.name}_{tmp_path.name}'.replace('-', '_')
  code = 'from pathlib import Path\nPath("executed").touch()\n'
  code += 'def part(command=None):\n  pass\n'
  (tmp_path / f'{module}.py').write_text(code)
  yield f'{module}:part'
  assert not (tmp_path / 'executed').exists()


def spoil(workdir, path, name):
  """Writes a section with a name into the config of a trained run."""
  (workdir / 'checkpoints' / '4').mkdir(parents=True, exist_ok=True)
  section = {'name': name, 'command': 'touch executed'}
  return stored_run(workdir, **{path: section})


@pytest.mark.parametrize('path', PLACES)
def test_a_run_names_a_part_in_any_place(path, payload, tmp_path):
  """The sections in USES come from the command's own config."""
  workdir = spoil(tmp_path / 'run', path, payload)
  message = f"{workdir}/config.json: config.{path}='{payload}' would be imported"
  refused(f'{message}, .* --allow={payload}', store.open_run, RunFolder.at(workdir))
  stored_run(workdir, **{path: payload})  # as a bare name, too
  refused(message, store.open_run, RunFolder.at(workdir))
  config = smoke()
  if path.partition('.')[0] in roles.USES:
    used = store.of_run(RunFolder.at(workdir), config, [])
    assert payload not in json.dumps(folder.plain(used))
  else:
    refused(message, store.of_run, RunFolder.at(workdir), config, [])
    refused(
      'holds a run with another config',
      roles.check_same_run,
      RunFolder.at(workdir),
      config,
      datasets.facts_of(config),
    )


@pytest.mark.parametrize(
  'evaluation', [{'metrics': ['NAME']}, {'NAME': {}}, {'metrics': ['elbo'], 'NAME': {'x': 1}}]
)
def test_a_run_names_a_metric(evaluation, payload, tmp_path):
  text = json.dumps(folder.plain(smoke()) | {'evaluation': evaluation})
  (tmp_path / 'config.json').write_text(text.replace('NAME', payload))
  config = store.open_run(RunFolder.at(tmp_path))  # used without it; only scoring asks for it
  if payload in config.evaluation.metrics:
    model = make_model(config, RunFolder.at(tmp_path))
    refused(f"'{payload}' would be imported", scorers.metrics_of, model)
  else:
    assert payload not in json.dumps(folder.plain(config))


def test_other_fields_of_a_run_import_nothing(payload, tmp_path):
  """'module:part' is tried as each value, and as the name of a field."""
  content = folder.plain(smoke())

  def spoiled(tree):
    for name, value in tree.items():
      if isinstance(value, dict):
        yield from ({**tree, name: x} for x in spoiled(value))
      elif isinstance(value, str) and name != 'name':
        yield {**tree, name: payload}
    yield {**tree, payload: payload}
    yield {**tree, payload: {'name': payload}}

  count = 0
  for tree in spoiled(content):
    (tmp_path / 'config.json').write_text(json.dumps(tree))
    try:
      store.open_run(RunFolder.at(tmp_path))
    except UserError as error:
      assert '\n' not in str(error)
    count += 1
  assert count > 20


def guides(config, workdir):
  return other_runs.guides_of(make_model(config, RunFolder.at(workdir)))


@pytest.mark.parametrize('config, field, more, use', [
  (smoke, 'sampling.guidance.run',
   {'sampling.guidance': 'autoguidance', 'sampling.guidance.scale': 2.0},
   guides),
  (smoke, 'sampling.sampler.run',
   {'sampling.sampler': 'feynman_kac', 'sampling.sampler.scale': 2.0}, guides),
  (smoke, 'sampling.classifier.run', {}, guides),
  (lambda: read('digits_distilled'), 'training.teacher',
   {'training.start': None}, MODES['train']),
  (lambda: read('digits_latent'), 'latent.run', {}, MODES['train']),
])  # fmt: skip
def test_a_run_that_another_reads(config, field, more, use, payload, tmp_path):
  run = str(spoil(tmp_path / 'other', 'network', payload))
  config = store.with_fields(config(), more | {field: run})
  if field == 'training.teacher':
    message = "training.teacher='.*' would be read"
    refused(message, use, config, str(tmp_path / 'new'))
  trust.allow([run])
  message = f"config.network='{payload}' would be imported"
  refused(message, use, config, str(tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


# -- paths that only a stored config names -------------------------------------

source, edit = datasets.source_of, lambda c: c.edit.make()
train = lambda c: roles.check_predecessors(c, 'train', RunFolder.at('new'))


def opened(*names):
  """Returns what refuses the paths of the sections that each of these modes reads."""

  def ask(config):
    *others, last = names
    for name in others:
      with pytest.raises(UserError):
        MODES[name].check_trust(config)
    MODES[last].check_trust(config)

  return ask


# Fields with paths that are read -> (the function that reads them, flags).
READ = {
  'data.path': (source, 'data=text'),
  'data.test_path': (
    lambda c: trust.allow(['a.tar']) or source(c),
    'data=webdataset',
    'data.path=a.tar',
  ),
  'data.paths': (source, 'data=photos'),
  'data.data_dir': (source, 'data=cifar10'),
  'data.source.path': (datasets.facts_of, 'data=binarized', 'data.source=npz'),
  'edit.image': (edit, 'edit=sdedit'),
  'edit.mask': (edit, 'edit=inpaint'),
  'edit.image2': (edit, 'edit=interpolate'),
  'evaluation.weights': (opened('train', 'evaluate'),),
  'evaluation.reference': (opened('train', 'evaluate'),),
  'sampling.context': (opened('train', 'sample', 'edit', 'evaluate', 'report', 'serve'),),
  'latent.path': (opened('train', 'encode'), 'latent=autoencoder', 'latent.run=runs/a'),
  'training.band': (lambda c: bands.compare(c, c.flat, [], {}),),
  'training.teacher': (train,),
  'training.start.run': (train, 'training.start=weights'),
  'latent.run': (train, 'latent=autoencoder'),
  'sampling.guidance.run': (train, 'sampling.guidance=autoguidance', 'sampling.guidance.scale=2'),
  'sampling.classifier.run': (train,),
}
NO_PATHS = {  # arrays, fused, levels, sizes, stacked, kept_in and split are not fields
  'arrays', 'levels', 'sizes', 'target',
  'categories', 'context', 'context_column', 'dataset', 'features', 'format', 'fused',
  'image_column', 'by', 'kept_in', 'label', 'label_column', 'log_to',
  'metrics', 'model', 'options', 'prompt', 'revision', 'split',
  'stacked', 'steps', 'subset', 'sweep', 'test_split', 'text_column', 'to', 'train_split', 'x',
  'x_column',
}  # fmt: skip


def test_every_field_of_text_is_known_as_a_path_or_not():
  """The type of a path says that it is read, is a run, or is written."""
  constructors = {
    constructor
    for kind in store.KINDS
    for table in (*kind.tables.values(), kind.parts, kind.metrics)
    for constructor in table.values()
  }
  names = {}
  for constructor in constructors:
    for name, parameter in parameters(constructor).items():
      kind = str(parameter.annotation)
      if re.search(r'\bstr\b|Path', kind) and not re.search('Literal|Rule', kind):
        names.setdefault(paths.use_of(parameter.annotation), set()).add(name)
  read = {field.rpartition('.')[2] for field in READ}
  assert names[paths.READ] | names[paths.RUN] == read | {'source', 'runs'}
  assert names[paths.WRITTEN] == {'compilation_cache', 'out'}
  assert names[''] == NO_PATHS


@pytest.mark.parametrize('value, is_read', [
  ('/secret', True), ('a/b', True), ('notes.txt', True), ('wide', False)
])  # fmt: skip
def test_a_text_of_an_own_part_may_be_a_path(value, is_read, tmp_path, monkeypatch):
  """The author of a part need not know `paths.ReadPath`: a string that may be a path is one."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'notes.txt').touch()
  config = Node('objective', lambda place='': place, {'place': value}, 'own_text:part')
  if is_read:
    refused(f"config.objective.place='{value}' would be read", config.make)
  else:
    assert config.make() == value


@pytest.mark.parametrize(
  'field',
  [*READ, 'compilation_cache', 'average.out', 'convert.out', 'convert.source', 'report.runs'],
)
def test_the_folder_of_the_user_is_found_in_every_path(field, monkeypatch):
  """~ means $HOME in flags, in config files and in --allow."""
  monkeypatch.setenv('HOME', '/home/of me')
  _, *more = READ.get(field, ('',))
  names = {'data.path': 'text_masked'}
  flags = [tuple(flag.split('=')) for flag in more]
  config = store.with_flags(read(names.get(field, 'digits')), flags)
  for text, path in (('~/a', '/home/of me/a'), ('./~/a', './~/a')):
    many = isinstance(config.at(field), tuple) or field == 'data.paths'
    expected, trust._allowed = (path,) if many else path, set()
    assert store.with_flags(config, [(field, text)]).at(field) == expected
    trust.check_paths((field, path))
    given = store.with_fields(config, {field: (text,) if many else text})
    assert given.at(field) == expected
  if field.endswith('out'):
    refused('gs://a is an address', store.with_flags, config, [(field, 'gs://a')])


@pytest.mark.parametrize('field', READ)
def test_a_path_that_only_a_stored_config_names(field, tmp_path):
  """A path of a stored config is refused before it is read, with the flag that allows it."""
  reading, *more = READ[field]
  secret = tmp_path / 'my secret'
  flags = [tuple(flag.split('=')) for flag in more]
  names = {'data.path': 'text_masked'}
  config = read(names.get(field, 'digits'))
  config = store.with_flags(config, [*flags, (field, str(secret))])
  content = json.loads(json.dumps(folder.plain(config)))
  trust._allowed.clear()  # another start of the program
  config = store.stored(content, 'config.json')
  message = re.escape(
    f"config.{field}='{secret}' would be read, but only a stored config "
    f"contains this path. If you trust it, add --allow='{secret}' to the"
  )
  refused(message, reading, config)
  trust.allow([str(secret)])  # by --allow, a flag or the config file
  trust.check_paths((field, str(secret)))


def test_a_run_keeps_what_the_user_has_allowed(tmp_path, monkeypatch):
  """Anywhere on this machine, in the folder of the parts, until the run changes."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  mine, disk = tmp_path / 'mine', tmp_path / 'disk'
  mine.mkdir()
  monkeypatch.chdir(mine)
  schedule = 'schedule', f'{TOY}:Schedule'
  config = plain(schedule, ('objective', f'{TOY}:objective'))
  run = stored_run(disk / 'run', config)
  trust.remember(RunFolder.at(run), config)

  def ask(path):
    trust._allowed.clear()  # another start of the program
    refused('would be imported', store.open_run, RunFolder.at(path))

  def opened(path):
    trust._allowed.clear()
    return store.open_run(RunFolder.at(path)).schedule.name

  assert opened(run) == f'{TOY}:Schedule'
  trust.remember(RunFolder.at(run), plain(schedule))  # a command with another objective
  assert opened(run) and trust.is_given(f'{TOY}:objective')
  monkeypatch.chdir(disk)  # it may have another module of this name
  ask(run)
  trust.allow_parts([TOY])
  trust.remember(RunFolder.at(run), store.open_run(RunFolder.at(run)))
  for here in (disk, mine):
    monkeypatch.chdir(here)
    assert opened(run)
  ask(run.rename(disk / 'moved'))
  for change in ({'schedule': f'{TOY}:schedule'}, {'schedule.first': 0.3}, {'data.name': 'x'}):
    ask(stored_run(run, config, **change))
  assert opened(stored_run(run, config))


def test_a_module_that_is_allowed_allows_its_parts():
  for name in ('a:b', 'a:c'):
    assert not trust.is_allowed(name)
  trust.allow(['a', 'd'])  # values of fields, not of --allow
  assert not trust.is_allowed('a:b')
  trust.allow(['a:'])
  assert trust.is_allowed('a:b') and trust.is_allowed('a:c')
  assert not trust.is_allowed('d:b') and not trust.is_allowed('a')


def test_an_edit_of_a_network_without_a_context_reads_none(tmp_path):
  """The data have contexts, so that the field is one of this run."""
  flags = [('conditioning.context', 'None'), ('sampling.context', '/secret')]
  flags += [('data.num_examples', '100'), ('data.num_test', '16')]
  config = store.with_flags(read('two_moons'), flags)
  choose = lambda: choose_cond(
    make_model(config, RunFolder.at(tmp_path)), SimpleNamespace(label=None), 1
  )
  refused('the network of this run takes no context', choose)


def test_all_parts_of_a_stranger_are_asked_for_at_once(payload, tmp_path):
  schedule, network = (f'{payload}{n}' for n in (1, 2))
  run = stored_run(tmp_path / 'run', schedule=schedule, **{'network.name': network})
  with pytest.raises(UserError) as error:
    store.open_run(RunFolder.at(run))
  words = re.search('--allow=(.*) to the command', str(error.value))[1].split(',')
  assert {*words} == {schedule, network} and 'would be imported' in str(error.value)


@pytest.mark.parametrize('name', prepare.NAMES)
def test_a_set_that_only_a_stored_config_names_is_not_downloaded(name, tmp_path, monkeypatch):
  """A set that is here, and one that the user names, needs no further word."""
  monkeypatch.setattr(prepare, 'default_data_dir', lambda path='': tmp_path)
  monkeypatch.setattr(prepare, '_check_archives', lambda *_: pytest.fail('asks the network'))
  content = folder.plain(store.with_flags(read('digits'), [('data', name)]))
  trust._allowed.clear()  # another start of the program
  config = store.stored(json.loads(json.dumps(content)), 'config.json')
  message = f"config.data='{name}' would be downloaded, .* add --allow={name} to the command"
  refused(message, config.data.make, {'split': 'train'})
  (tmp_path / f'{name}_arrays' / '1.0.0').mkdir(parents=True)
  refused('is incomplete', config.data.make, {'split': 'train'})


def test_all_that_a_mode_would_read_is_asked_for_at_once():
  flags = [('evaluation.weights', '/a b'), ('sampling.context', '/c'), ('training.teacher', '/d')]
  config = store.with_flags(read('digits'), flags)
  trust._allowed.clear()  # another start of the program
  named = "config.evaluation.weights='/a b' and config.sampling.context='/c' would be read, but"
  refused(f"{named} .* --allow='/a b,/c' to the command", MODES['evaluate'], config, 'nowhere')
  of_a_page = lambda: store.with_flags(config, [('sampling.seed', '1')], trusted=False)
  refused("config.sampling.context='/c' would be read, but", of_a_page)
  trust.allow(['/a b,/c'])
  MODES['evaluate'].check_trust(config)
  of_a_page()


def test_a_path_that_the_user_has_given_is_read(tmp_path, monkeypatch):
  """A flag, a config file, a sweep or the training of the folder gives it."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  path = str(tmp_path / 'pictures.npz')
  np.savez(path, images=np.zeros((4, 8, 8, 1), np.uint8))
  ours = smoke(**{'data': 'npz', 'data.path': path, 'data.num_classes': 0})
  mine, other = (stored_run(tmp_path / x, ours) for x in ('mine', 'unpacked'))
  trust.remember(RunFolder.at(mine), ours)
  (record,) = (tmp_path / 'cache').rglob('*.json')
  kept = {'run': str(mine), 'paths': [path], 'parts': {os.getcwd(): [ours.network.name]}}
  assert json.loads(record.read_text()) == kept
  trust.remember(RunFolder.at(other), smoke())  # without a path
  trust._allowed.clear()
  trust.remember(RunFolder.at(other), ours)  # with one that nobody has given
  digits, network = stored_run(tmp_path / 'digits'), smoke().network.name

  def opened(run):
    trust.allow([network])
    return store.open_run(RunFolder.at(run))

  for again, size in (
    (lambda: opened(mine), 4),
    (lambda: opened(other), 0),
    (lambda: store.of_run(RunFolder.at(other), smoke(), [('data.path', path)]), 4),
    (lambda: store.of_run(RunFolder.at(other), store.completed(ours), []), 4),
    (lambda: opened(digits), 1437),  # the own data need no path
  ):
    trust._allowed.clear()  # another start of the program
    config = again()
    if size:
      assert len(datasets.source_of(config)) == size
    else:
      refused('config.data.path=', datasets.source_of, config)
  trust._allowed.clear()
  trust.allow(['num_steps=3 guidance.run=runs/a b,runs/c'])
  trust.check_paths(('sampling.guidance.run', ('runs/c', 'runs/a')))
