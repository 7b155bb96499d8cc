"""Every source of images is made from a config; errors are one line."""

import pathlib
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app import smoke
from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import choices, roles, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import setup
from diffusion_jax.data import sources, tfds_sources
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app import conftest
from tests.app.conftest import (
  DIGITS,
  SMALL,
  as_flags,
  read,
  refused,
  stored_run,
  trial,
  untrained,
)
from tests.app.fields import within
from tests.data import encoded

ROOT = pathlib.Path(__file__).parents[3]
FEWER = within('training', batch_size=6, machine__mesh=(1, 1), held_out=None, sample_every=0)


def data(name, config='digits', **fields):
  flags = [('data', name)]
  flags += [(f'data.{n}', overrides.as_text(x)) for n, x in fields.items()]
  return store.with_flags(read(config), flags)


def source(name, split='train', **fields):
  return datasets.source_of(data(name, **fields), split)


@pytest.fixture
def pictures(tmp_path):
  """Writes two classes of three pictures into a folder and an npz file."""
  rng = np.random.default_rng(0)
  for name in 'ab':
    (tmp_path / name).mkdir()
    for i in range(3):
      picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(picture).save(tmp_path / name / f'{i}.png')
  arrays = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  np.savez(tmp_path / 'x.npz', images=arrays, labels=np.arange(6) % 2)
  return tmp_path


def test_every_source_has_a_validation_part(pictures):
  """The test split stays, and the training part has the statistics."""
  config = data(
    name='two_moons', config='two_moons', num_examples=50, num_test=7, validation_fraction=0.2
  )
  train, held_out = (datasets.source_of(config, split) for split in ('train', 'validation'))
  whole: Any = source('two_moons', config='two_moons', num_examples=50)
  assert (len(train), len(held_out)) == (40, 10)
  both = np.concatenate([part.read(slice(None))['x'] for part in (train, held_out)])
  assert_array_equal(np.sort(both, axis=0), np.sort(whole.x, axis=0))
  mean = train.read(slice(None))['x'].mean(axis=0)
  assert_allclose(datasets.facts_of(config).x.mean, mean)
  assert len(datasets.source_of(config, 'test')) == 7
  assert len(datasets.source_of(datasets.of_training(config), 'test')) == 10
  message = 'config.data: validation_fraction=0.0 leaves none of the 6 .* for the validation part'
  refused(message, source, name='folder', path=pictures, split='validation')


def test_what_is_unseen_is_the_test_split_or_all(pictures):
  folder = {'name': 'folder', 'path': pictures, 'image_shape': (8, 8, 3)}
  npz = {'name': 'npz', 'path': pictures / 'x.npz'}
  for fields in (folder, npz):
    refused('config.data: .* has no test split', source, split='test', **fields)
    assert len(source(**fields)) == len(datasets.unseen(data(**fields))) == 6  # the training images
  assert len(source(**npz, split='test', test_fraction=0.5)) == 3
  assert len(datasets.unseen(data(**npz, test_fraction=0.5))) == 3


def test_facts_are_those_of_the_data():
  assert datasets.facts_of(read('digits')) == DIGITS
  # without a download
  cifar10 = sources.pictures((32, 32, 3), 10, tfds_sources.CIFAR10_CLASSES)
  assert datasets.facts_of(read('cifar10')) == cifar10
  assert datasets.facts_of(read('mnist')) == sources.pictures((28, 28, 1), 10)
  other = data('tfds', dataset='celeb_a', image_shape=(64, 64, 3), num_classes=0)
  assert datasets.facts_of(other) == sources.pictures((64, 64, 3))
  own = data('tests.app.toy_parts:UnitPictures')  # whose facts are a property
  refused('config.data: x must be uint8', datasets.facts_of, own)
  context = ArraySpec((2,), mean=(1.5, 0.0), std=(2.0, 1.0))
  for other in (None, context):
    facts = Facts(ArraySpec((4, 4, 1), 5), 3, other, ('a', 'b', 'c'))
    tree = read('digits').to_dict() | {'facts': facts.as_json()}
    assert datasets.facts_of(store.completed(tree)) == facts


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('folder', {}, 'config.data.path is not set: folder needs it'),
    ('None', {}, 'has no data set: give --config.data=digits'),
    ('tfds', {}, 'config.data.dataset is not set: tfds needs it'),
    ('folder', {'path': '/nowhere'}, 'config.data: folder /nowhere not found'),
    ('webdataset', {'path': '/nowhere'}, 'config.data: /nowhere is neither'),
    ('photos', {'paths': ('/nowhere.png',)}, 'config.data: .*nowhere.png'),
  ],
)
def test_a_source_that_is_not_there_is_one_line(name, fields, message):
  refused(message, source, name, **fields)


def test_columns_of_texts_are_read_and_asked_for(tmp_path):
  """The facts are in the config; texts come from the column it names."""
  picture = encoded.png(np.zeros((9, 9, 3), np.uint8))
  for text in (b'a cat', b'a ' * 999):
    path = encoded.tar(tmp_path / 'a.tar', [('0.png', picture), ('0.txt', text)])
    fields = {'path': path, 'image_shape': (16, 16, 3)}
    config = data('webdataset', 'shapes_text', **fields, text_column='txt')
    assert datasets.facts_of(config) == sources.pictures((16, 16, 3))
    if len(text) < 99:
      captioned: Any = datasets.source_of(config)
      assert captioned.read(np.arange(1))['text'] == ['a cat']
    else:
      refused('config.data: each text must have', datasets.source_of, config)
  config = data('webdataset', 'shapes_text', **fields)
  message = 'config.data: these images have no texts .*text_column'
  refused(message, datasets.source_of, config)
  assert smoke.shrunk(config).data.name == 'shapes'
  fields = {'path': '/nowhere', 'num_classes': 7}
  for name in ('webdataset', 'huggingface'):
    config = data(name, **fields)
    assert datasets.facts_of(config) == sources.pictures((64, 64, 3), 7)
    assert smoke.shrunk(config).data.name == 'synthetic'


@pytest.mark.parametrize(
  'x, context, message',
  [
    ((4, 3), (2,), r'shape of x is \(3,\), and \(2,\) in this run'),
    ((4, 2), (), r'shape of context is \(\), and \(2,\) in this run'),
    ((4, 2), (5,), r'shape of context is \(5,\), and \(2,\) in this run'),
    (None, (2,), r'number of levels \(0: real numbers\) of x is 256, and 0 in this run'),
  ],
)
def test_a_run_of_numbers_takes_data_of_its_kind(tmp_path, x, context, message):
  """The statistics stay the run's when the data change."""
  facts = Facts(ArraySpec((2,), 0, (5.0, 6.0), (7.0, 8.0)), 0, ArraySpec((2,), 0, (1.0,), (2.0,)))
  rng = np.random.default_rng(0)
  path = tmp_path / 'x.npz'
  tree = data('npz', path=path).to_dict() | {'facts': facts.as_json()}
  config = store.completed(tree)
  np.savez(path, x=rng.normal(size=(4, 2)), context=rng.normal(size=(4, 2)))
  assert len(datasets.source_of(config)) == 4
  assert datasets.facts_of(config) == facts
  arrays = {'x': rng.normal(size=x) if x else np.ones((4, 2), np.uint8)}
  arrays |= {'context': rng.normal(size=(4, *context))} if context else {}
  np.savez(path, **arrays)
  refused(message, datasets.source_of, config)


@pytest.mark.parametrize('name', ['folder', 'npz'])
def test_a_training_on_changed_data_is_refused(name, pictures):
  """Data may change under an unchanged config: a training is refused, and sampling is not."""
  config = data(name, path=pictures / 'x.npz')
  if name == 'folder':
    config = data(name, path=pictures, image_shape=(8, 8, 3))
  config = store.with_fields(config, FEWER)
  facts = datasets.with_contents(datasets.facts_of(config), datasets.source_of(config))
  assert facts.examples == 6
  run = pictures / 'run'
  run.mkdir()
  folder.write_config(RunFolder.at(run), config, facts)
  with np.load(pictures / 'x.npz') as file:
    np.savez(pictures / 'x.npz', images=file['images'] // 2, labels=file['labels'])
  path = pictures / 'b' / '0.png'
  path.write_bytes(path.read_bytes() + b'.')
  message = 'holds a run with other data: .*facts.checksum is .*, .* now'
  for again in config, store.of_run(RunFolder.at(run), store.open_run(RunFolder.at(run)), []):
    refused(message, setup.prepare, again, RunFolder.at(run))
    assert len(datasets.source_of(again)) == 6
  forced = store.with_fields(config, {'training.resume': 'force'})
  roles.check_same_run(RunFolder.at(run), forced, facts._replace(examples=5))
  folder.write_config(RunFolder.at(run), config, facts._replace(examples=0, checksum=''))
  roles.check_same_run(RunFolder.at(run), config, facts)  # of other projects' weights


TABLE = [f'{i % 3},{i / 7:.3f},{i * i % 11}' for i in range(40)]


def written(path, rows, header='label,x,y'):
  path.write_text('\n'.join([header, *rows]) + '\n')


@pytest.fixture
def trained(tmp_path):
  """Returns (fields) -> the folder of a run that was trained on a table."""
  written(tmp_path / 'table.csv', TABLE)

  def make(**fields):
    fields = {'x': 'x', 'context': 'y', 'path': tmp_path / 'table.csv'} | fields
    config = data('csv', config='vectors', **fields)
    run = tmp_path / 'run'
    run.mkdir(exist_ok=True)
    facts = datasets.with_contents(datasets.facts_of(config), datasets.source_of(config))
    folder.write_config(RunFolder.at(run), config, facts)
    return run

  return make


def reopened(run, **fields):
  """Returns the config of a mode of a run."""
  flags = [(f'data.{n}', overrides.as_text(x)) for n, x in fields.items()]
  return datasets.of_run(
    store.of_run(RunFolder.at(run), store.open_run(RunFolder.at(run)), flags), RunFolder.at(run)
  )


@pytest.mark.parametrize(
  'rows',
  [[*TABLE, '1,2,3'], TABLE[:-1], sorted(TABLE), TABLE[::-1], ['0,0.001,0', *TABLE[1:]]],
  ids=['appended', 'removed', 'sorted', 'reversed', 'one number'],
)
def test_a_run_reads_its_own_data_as_they_were(rows, trained, tmp_path):
  """A changed file is refused for every split: half of a new test split was trained on."""
  run = trained(test_fraction=0.2, validation_fraction=0.25)
  splits = 'train', 'validation', 'test'
  assert [len(datasets.source_of(reopened(run), split)) for split in splits] == [24, 8, 8]
  assert not datasets.another_set(reopened(run), 'test')
  (tmp_path / 'table.csv').touch()  # other times, the same contents
  datasets.source_of(reopened(run), 'test')
  written(tmp_path / 'table.csv', rows)
  for split in splits:
    line = refused('trained on different examples', datasets.source_of, reopened(run), split)
    assert 'checksum ' in line and f'the {split} split' in line
    assert 'put them back as they were, read another set by --config.data.test_path' in line
  refused('trained on different examples', datasets.unseen, reopened(run))


def test_a_run_keeps_its_splits(trained, tmp_path, capsys):
  """A file in another place is another set, even of the same name."""
  run = trained(test_fraction=0.2)
  for fields in ({'test_fraction': 0.3}, {'validation_fraction': 0.1}, {'test_fraction': 0.0}):
    (name,) = fields
    message = f'data.{name} is .*: leave this as it was'
    refused(message, datasets.source_of, reopened(run, **fields), 'train')
  refused('data.test_fraction is', datasets.source_of, reopened(run, test_fraction=0.3), 'test')
  (tmp_path / 'other').mkdir()
  path = tmp_path / 'other' / 'table.csv'
  written(path, TABLE[:10])
  capsys.readouterr()
  for fields, split, count in (
    ({'path': path, 'test_fraction': 0.5}, 'test', 5),
    ({'test_path': path}, 'test', 10),
    ({'path': path}, 'train', 8),
  ):
    assert len(datasets.source_of(reopened(run, **fields), split)) == count
    assert 'of another set than those of the training' in capsys.readouterr().out
    assert datasets.another_set(reopened(run, **fields), split)
  (tmp_path / 'linked.csv').symlink_to(tmp_path / 'table.csv')
  linked = reopened(run, path=tmp_path / 'linked.csv')
  assert len(datasets.source_of(linked, 'test')) == 8 and not capsys.readouterr().out
  assert not datasets.another_set(reopened(run, test_path=path), 'train')


def test_advice_for_a_run_that_held_nothing_out_is_right(trained):
  """To set test_fraction would be to test on trained rows."""
  for fields, part in (({}, 'train'), ({'validation_fraction': 0.25}, 'validation')):
    run = trained(**fields)
    line = refused('held out no test', datasets.source_of, reopened(run), 'test')
    assert f'give evaluation.split={part}, read' in line and 'test_fraction' not in line
    held_out: Any = datasets.source_of(reopened(run), part)
    unseen: Any = datasets.unseen(reopened(run))
    assert unseen.checksum() == held_out.checksum()
    refused('test_fraction is', datasets.source_of, reopened(run, test_fraction=0.2), 'test')


def test_simulations_of_other_fields_are_another_set(tmp_path):
  """The random numbers of the test split are others than the training's."""
  config = data('two_moons', config='two_moons', num_examples=50, num_test=7)
  facts = datasets.with_contents(datasets.facts_of(config), datasets.source_of(config))
  folder.write_config(RunFolder.at(tmp_path), config, facts)
  nine = reopened(tmp_path, num_test=9)
  assert len(datasets.source_of(nine, 'test')) == 9
  assert datasets.another_set(nine, 'test') == {'num_test': 9}
  assert not [*(tmp_path / 'simulations').glob('train*')]
  message = 'validation_fraction is 0.0, 0.2 now'
  refused(message, datasets.source_of, reopened(tmp_path, validation_fraction=0.2), 'validation')


@pytest.mark.parametrize('name', ['folder', 'huggingface'])
def test_a_run_keeps_its_classes(name, pictures, tmp_path_factory):
  """A class that is renamed between two starts would get another number."""
  fields: dict = {'labelled': True}
  if name == 'huggingface':  # whose facts are in the config
    pytest.importorskip('datasets', reason="extra 'huggingface'")
    fields = {'num_classes': 2}
  (pictures / 'x.npz').unlink()
  shape = {'image_shape': (8, 8, 3), 'path': pictures}
  config = store.with_fields(data(name, **fields | shape), FEWER)
  run = tmp_path_factory.mktemp('run')
  facts = setup.prepare(config, RunFolder.at(run)).model.facts
  assert facts.class_names == ('a', 'b')
  folder.write_config(RunFolder.at(run), config, facts)
  checked = store.with_flags(config, [('data.check', 'True')])
  roles.check_same_run(RunFolder.at(run), checked, facts)  # changes no result
  (pictures / 'a').rename(pictures / 'z')
  refused('facts.class_names', MODES['train'], config, run)
  config = store.of_run(RunFolder.at(run), store.open_run(RunFolder.at(run)), [])
  message = "class 0 is 'b', and 'a' in this run: give them names and an order as there"
  refused(message, datasets.source_of, config)


def test_a_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
  """cifar10, mnist and the catalogue get data_dir from the config."""
  import requests

  def refuse(*args, **kwargs):
    raise requests.ConnectionError

  monkeypatch.setattr(requests, 'head', refuse)
  for name in ('cifar10', 'mnist', 'tfds'):
    more = {'dataset': 'celeb_a'} if name == 'tfds' else {}
    config = data(name, data_dir=tmp_path, **more)
    refused(f'config.data: .*{tmp_path}', datasets.source_of, config)


def test_a_damaged_file_ends_training_in_one_line(pictures):
  path = pictures / 'a' / '0.png'
  path.write_bytes(encoded.LARGE[:2000])
  config = store.with_fields(
    data('folder', path=pictures, image_shape=(8, 8, 3), labelled=True), FEWER
  )
  run, train = pictures / 'run', MODES['train']
  line = 'config.data: 1 of 6 pictures in .* are damaged: a/0.png'
  checked = store.with_flags(config, [('data.check', 'True')])
  refused(line, train, checked, run)
  path.write_bytes(b'not a picture')
  refused(line, train, config, run)
  assert not run.exists()
  shape = {'data.image_shape': (8, 8, 1), 'data.labelled': True}
  skipping = {'data.path': pictures, 'data.skip_damaged': True} | shape
  facts = setup.prepare(conftest.smoke(data='folder', **skipping), RunFolder.at(run)).model.facts
  assert facts.skipped == ('a/0.png',)
  assert facts.class_names == ('a', 'b')


def test_every_source_is_documented():
  text = (ROOT / 'docs' / 'data.md').read_text()
  assert all(f'`{name}`' in text for name in choices.DATA)


@pytest.mark.parametrize(
  'fields, labels, dropout',
  [
    ({}, False, 0.0),
    ({'data.labelled': True}, True, 0.1),
    ({'data.labelled': True, 'conditioning.dropout': 0.2}, True, 0.2),
    ({'data.labelled': True, 'conditioning.labels': True}, True, 0.0),
    ({'data.labelled': True, 'conditioning.labels': False}, False, 0.0),
    ({'data': 'npz', 'data.num_classes': 2}, True, 0.1),
    ({'data': 'npz', 'data.num_classes': 0}, False, 0.0),
    # sets with labels that no field asks for
    ({'data': 'cifar10'}, False, 0.0),
    ({'data': 'synthetic', 'data.num_classes': 10}, False, 0.0),
  ],
)
def test_labels_follow_the_data_that_ask_for_them(fields, labels, dropout):
  config = store.with_flags(read('pictures'), [*as_flags(fields)])
  decided = datasets.with_conditions(config, DIGITS).conditioning
  assert (decided.labels, decided.dropout) == (labels, dropout)
  small = smoke.shrunk(config).conditioning
  assert bool(small.labels) == labels


def test_labels_of_sub_folders_are_known_and_drawn(pictures):
  """A single flag makes configs/pictures.py conditional, for guidance too."""
  flags = within('data', 'folder', path=str(pictures), image_shape=(8, 8, 3))
  flags |= {'data.labelled': True, 'sampling.num_samples': 4}
  run = pictures / 'run'
  config = make_model(trial('pictures', small=True, **flags), RunFolder.at(run)).config
  assert (config.conditioning.labels, config.conditioning.dropout) == (True, 0.1)
  untrained(config, run)
  # names of classes, as numbers
  opened = lambda **fields: dj.open_run(run, allow=[SMALL], guidance={'scale': 2}, **fields)
  expected = opened().draw(4, label=['a', 1])
  assert_array_equal(opened(labels=('a', 'b', 0, '1')).draw(4), expected)
  message = r"labels=bb \(did you mean 'b'\?\) is not a class"
  refused(message, opened(labels='bb').draw, 4)


@pytest.mark.parametrize(
  'changes, wrong',
  [
    ({'mean': (0.0,) * 3}, 'mean has 3 and std 2 numbers, the last axis of x 2'),
    ({'mean': (0.0,)}, 'mean has 1 and std 2 numbers'),
    ({'std': ()}, 'mean has 2 and std 0 numbers'),
    ({'names': ('a',)}, '1 names are given for 2 numbers'),
    ({'mean': ()}, 'mean has 0 and std 2 numbers'),
    ({'std': (0.0, 1.0)}, r'std\[0\]=0.0 is not a number in \(0, inf\)'),
    ({'low': (0.0,)}, 'low has 1 and high 0 numbers'),
    ({'low': (0.0,) * 3, 'high': (1.0,) * 3}, 'low has 3 and high 3 numbers'),
    ({'low': (0.0, 0.0), 'high': (1.0, 0.0)}, 'is not below high='),
    ({'shape': ()}, 'shape=.. is that of no array'),
    ({'shape': (10**5, 10**5, 2)}, 'is that of no array of up to 268,435,456'),
    ({'shape': (3,)}, 'mean has 2 and std 2 numbers, .* of x 3'),
    ({'levels': 1}, 'levels=1 is not 0 or 2..256'),
    ({'levels': 257}, 'levels=257 is not 0 or 2..256'),
  ],
)
def test_the_facts_of_a_stranger_fit_together(changes, wrong, tmp_path):
  """The units of x and of the context; a half of x may have a box."""
  good = {'shape': (2,), 'levels': 0, 'mean': (0.0, 0.0), 'std': (1.0, 2.0)}
  boxed = good | {'low': (0.0,), 'high': (1.0,)}
  config = read('two_moons')

  def opened(**facts):
    stored_run(tmp_path, config, facts=facts)
    return store.open_run(RunFolder.at(tmp_path))

  facts = datasets.facts_of(opened(x=boxed, context=good))
  assert facts.x.high == (1.0,) and facts.context.std == (1.0, 2.0)
  for name in ('x', 'context'):
    facts = {'x': good, 'context': good} | {name: good | changes}
    # The range of a number is checked when the file is read.
    sample = lambda facts=facts: MODES['sample'](opened(**facts), str(tmp_path))
    refused(f'config.facts.*{name}.*{wrong}', sample)
  assert not (tmp_path / 'samples').exists()


def test_a_stranger_asks_for_no_endless_data(tmp_path):
  for name, field in (
    ('two_moons', 'num_test'),
    ('two_moons', 'num_examples'),
    ('synthetic', 'num_images'),
    ('shapes', 'num_pictures'),
  ):
    stored_run(tmp_path, data(name), **{f'data.{field}': 10**15})
    message = f'config.data.{field}=10+ is not an integer up to '
    refused(message, store.open_run, RunFolder.at(tmp_path))
  facts = {'x': {'shape': (8, 8, 1), 'levels': 17}, 'num_classes': 10**7}
  stored_run(tmp_path, data('digits'), facts=facts)
  config = store.open_run(RunFolder.at(tmp_path))
  refused('num_classes=10000000 is more than a', datasets.facts_of, config)
