"""A config file, a run and flags give one complete config; each folder is a kind of model."""

import functools
import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base
from diffusion_jax.app.config import experiments, folder, tree
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import (
  autoencoders,
  classifier,
  diffusion,
  few_steps,
  latent,
  roles,
  schemas,
  sections,
  store,
)
from diffusion_jax.ranges import PLAIN
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import ALL, FILES, with_flags
from tests.app.conftest import CONFIGS, DIGITS, read, refused, smoke, stored_run
from tests.app.fields import within

ROOT = CONFIGS.parent


def test_each_folder_is_a_kind_with_a_schema_and_a_maker():
  folders = {path.parent.name for path in Path(store.__file__).parent.glob('*/__init__.py')}
  assert {module.__name__.split('.')[-1] for module in schemas.MODULES} == folders
  for name in folders:
    assert importlib.import_module(f'diffusion_jax.app.kinds.{name}.model').make


def constructors(kind):
  """Yields (path, constructor) of all sections of a kind."""
  yield from ((where, c) for where, table in kind.tables.items() for c in table.values())
  yield from kind.parts.items()
  yield from ((f'evaluation.{name}', c) for name, c in kind.metrics.items())


@pytest.mark.parametrize('kind', store.KINDS)
def test_no_plain_parameter_has_the_name_of_a_table(kind):
  """A number `weight` would clash with the table of the objectives' weights."""
  plain = [
    tree.below(where, name)
    for where, constructor in constructors(kind)
    for name, parameter in tree.parameters(constructor).items()
    if isinstance(parameter.default, (*PLAIN,))
  ]
  assert not [where for where in plain if kind.table(where)]


@pytest.mark.parametrize('kind', store.KINDS)
def test_no_field_of_a_part_has_the_name_of_a_member_of_sections(kind):
  """`config.training.held_out` is the field, so `Node` has no method of this name."""
  parts = kind.parts.items()
  fields = {tree.below(where, name) for where, c in parts for name in tree.parameters(c)}
  assert not {path for path in fields if hasattr(tree.Node, path.rpartition('.')[2])}


def test_a_sweep_has_few_points():
  many = ','.join(map(str, range(500)))
  assert store.swept(f'seed={many} num_steps=5,10')
  refused('has 1,500 points, and at most 1,000', store.swept, f'seed={many} num_steps=5,10,20')


def choices_of(config, schema, prefix=''):
  """Yields (path, section) of all sections of a config that have a name."""
  for name, value in config.items():
    path = f'{prefix}{name}'
    if isinstance(value, Node):
      if schema.table(path):
        yield path, value
      yield from choices_of(value, schema, f'{path}.')


@pytest.mark.parametrize('name, variant', ALL)
def test_every_config_is_complete_and_comes_back_from_its_json(name, variant):
  """Each field of a choice is a parameter of its constructor."""
  path = str(CONFIGS / f'{name}.py')
  config = store.completed(experiments.from_file(path, variant))
  assert f'configs/{name}.py' in str(experiments.module_of(path).__doc__)
  assert store.completed(config.to_dict()) == config
  stored = store.stored(json.loads(json.dumps(folder.plain(config))), 'x', ())
  assert stored == config
  schema = config.schema
  for path, part in choices_of(config, schema):
    taken = parameters(schema.table(path)[part.name])
    common = {'validation_fraction', 'one_scale'} if path == 'data' else {}
    assert {*part} <= {'name', *taken, *common}, path


def sections_of(tree, path=()):
  """Yields the path of each section of nested dicts."""
  yield path
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from sections_of(value, (*path, name))


@pytest.mark.parametrize('name', {read(name).schema.kind: name for name in FILES}.values())
def test_an_unknown_field_of_a_stored_config_is_refused_in_every_section(name, tmp_path):
  """A newer version may have renamed it, and its default would be another value."""
  config = store.with_flags(read(name), [('evaluation.metrics', 'auto')])
  tree = folder.plain(config) | {'facts': DIGITS.as_json()}
  tree['evaluation'] |= {'theirs': {'kernel': 'cubic'}}  # the section of a metric of a module
  store.stored(tree, 'config.json')
  for path in sections_of(tree):
    if path[:1] in {(name,) for name in roles.NOT_READ} or path[-1:] == ('theirs',):
      continue
    changed = json.loads(json.dumps(tree))
    functools.reduce(dict.__getitem__, path, changed)['newer'] = 1
    refused(f'no field config.{".".join((*path, "newer"))}', store.stored, changed, 'config.json')


@pytest.mark.parametrize(
  'name, flags, kind',
  [
    ('digits', ('objective=mean_flow', 'noise_input=time'), few_steps.SCHEMA),
    ('digits', ('latent.run=x',), latent.SCHEMA),
    ('digits', ('objective=classifier', 'network=classifier'), classifier.SCHEMA),
    ('digits', ('network=autoencoder', 'network.channels=9', 'objective=vae'), autoencoders.SCHEMA),
    # Only the new kind has the field, or the objective.
    ('digits_meanflow', ('parametrization=v', 'objective=hybrid'), diffusion.SCHEMA),
    ('digits_latent', ('objective=vdm', 'latent=None'), diffusion.SCHEMA),
    ('digits_latent', ('objective=vdm', 'latent=none'), diffusion.SCHEMA),
  ],
)
def test_flags_may_make_another_kind_of_model_in_any_order(name, flags, kind):
  """Sections that this kind does not have are dropped; others are added.

  The network, which no diffusion model has, is not replaced by itself.
  """
  if 'network=' in ''.join(flags):
    alone = [f for f in flags if 'objective' in f]
    message = "config.network='unet' is not one of"
    refused(message, lambda: with_flags(name, *alone))
  config = with_flags(name, *flags)
  assert store.kind_of(config) is kind
  tops = {*kind.choices, *parameters(sections.Top), *kind.parts} - {''}
  assert {*config} == tops
  assert config.training == read(name).training
  assert with_flags(name, *reversed(flags)) == config
  set_by_flags = [f.split('=') for f in flags if '.' in f]
  flat = folder.flat(config.to_dict())
  assert all(str(flat[path]) == value for path, value in set_by_flags)


def test_the_sections_of_a_file_may_be_empty_or_absent():
  config = store.completed(base.get_config())
  assert config.evaluation.elbo.decoder == 'gaussian'  # of the default metrics
  for content in (config.to_dict(), {}):
    again = store.completed(ConfigDict(content))
    assert again.to_dict() == config.to_dict()


def test_the_facts_of_a_run_go_with_its_data(tmp_path):
  """Other data may have images of another shape."""
  content = folder.plain(smoke()) | {'facts': DIGITS.as_json()}
  config = store.stored(content, tmp_path)
  assert store.with_flags(config, [('seed', '3')]).facts.x.levels == 17
  assert 'facts' not in store.with_flags(config, [('data', 'shapes')])


# -- wrong inputs --------------------------------------------------------------

WRONG = """
digits seed=-1 is not in 0..2^32 - 1
digits matmul_precision=hihg (did you mean 'high'?) is not one of default, high
digits evaluation.metrics=elbo,fidd (did you mean 'fid'?) is not one of elbo
digits_classifier evaluation.metrics=acuracy (did you mean 'accuracy'?) is not
digits evaluation.name=a/b is not the name of a file
digits evaluation.elbo.decoder=gausian (did you mean 'gaussian'?) is not one of
digits sampling.name=.a is not the name of a file
digits sampling.checkpoint=lates is not latest, best or a step
digits average.sigma_rel=0.2887 is not a number in (0, 0.288675]
digits sampling.schedule=learned is not one of linear
digits sampling.sampler=os:nothing cannot be imported: module 'os' has no attri
digits sampling.sampler=nowhere:x cannot be imported: No module named 'nowhere'
digits sampling.sampler=os:system : a Python function or class is needed
digits_vdm schedule.gamma=os:system is not one of scalar
digits network=json:JSONDecoder : a subclass of flax.linen.Module or flax.nnx.Mo
digits objective=json:JSONDecoder : its parameters must include network
digits data=json:JSONDecoder : its parameters must include split
"""
NO_FIELD = """
digits batch_size (did you mean 'training.batch_size' or 'sampling.batch_size' or
digits sampling.sampler.spacing (did you mean 'sampling.grid.spacing'?)
digits sampling.guidance_scale (did you mean 'guidance'?)
digits noise_input.schedule_steps ; config.noise_input=step has none
digits facts.num_classes ; the config has average,
digits_vae schedule ; the config has average,
digits_vae sampling.sampler (did you mean 'num_samples'?)
digits_meanflow sampling.guidance.scale (did you mean 'guidance_scale'?)
"""


@pytest.mark.parametrize('line', WRONG.strip().splitlines())
def test_a_wrong_value_is_one_line_that_names_the_field(line):
  name, flag, message = line.split(' ', 2)
  path = flag.partition('=')[0].removesuffix('.name')
  found = refused('', with_flags, name, flag)
  assert found.startswith(f'config.{path}') and message in found, found


@pytest.mark.parametrize('line', NO_FIELD.strip().splitlines())
def test_a_field_that_does_not_exist_is_one_line(line):
  name, path, *hint = line.split(' ', 2)
  found = refused('there is no field config.', with_flags, name, f'{path}=3')
  assert not hint or hint[0] in found, found


# -- runs ----------------------------------------------------------------------


def test_the_model_comes_from_the_run_and_its_use_from_the_command(tmp_path):
  """The order is run, config file, flags; the file describes another model."""
  of_run = {'network.channels': 24, 'sampling.num_steps': 7, 'seed': 5}
  stored_run(tmp_path, smoke(**of_run))
  config = with_flags('digits', 'sampling.num_steps=9')
  flags = [('sampling.sampler', 'heun'), ('sampling.seed', '3')]
  flags += [('matmul_precision', 'high'), ('network.dtype', 'bfloat16')]
  merged = store.of_run(RunFolder.at(tmp_path), config, flags)
  assert (merged.network.channels, merged.seed) == (24, 5)
  assert merged.sampling.grid.number == 9
  assert merged.sampling.sampler.name == 'heun' and merged.sampling.seed == 3
  assert merged.matmul_precision == 'high'
  assert merged.network.dtype == 'bfloat16'
  # without a file of one's own all is the run's
  alone = store.of_run(RunFolder.at(tmp_path), store.open_run(RunFolder.at(tmp_path)), [])
  assert alone.sampling.grid.number == 7


@pytest.mark.parametrize('flag', [
  ('network.channels', '24'), ('network', 'dit'), ('schedule.num_steps', '9'),
  ('conditioning.dropout', '0.5'), ('parametrization', 'v'), ('seed', '1'),
  ('optimizer.learning_rate', '1'), ('objective.weight', 'min_snr'),
])  # fmt: skip
def test_a_flag_cannot_change_the_model_of_a_run(flag, tmp_path):
  stored_run(tmp_path)
  message = f'config.{flag[0]}.* now.*: only a training can change this'
  refused(message, store.of_run, RunFolder.at(tmp_path), read('digits:long'), [flag])


def test_a_run_of_another_kind_of_model_is_refused(tmp_path):
  stored_run(tmp_path)
  message = 'holds a diffusion model, and --config describes a VAE: give --con'
  refused(message, store.of_run, RunFolder.at(tmp_path), read('digits_vae'), [])


def test_a_folder_without_a_run_names_the_command_that_trains_it(tmp_path, monkeypatch):
  refused(r'there is no run in .*: train it first', store.open_run, RunFolder.at(tmp_path))
  monkeypatch.chdir(ROOT)
  message = '`.*--config=configs/digits.py:smoke --workdir=.*/digits-smoke` tr'
  refused(message, store.open_run, RunFolder.at(tmp_path / 'digits-smoke'))


@pytest.mark.parametrize(
  'content, message',
  {
    b'\x89PNG\r\n': 'config.json cannot be read: ',
    b'[1, 2]': 'it is a JSON list, not an object',
    b'[' * 100_000: 'config.json cannot be read: ',
    b'{"data": 3}': 'config.json: config.data=3 is not one of digits',
    b'{"seed": NaN}': 'config.json: config.seed=nan is not an integer',
    b'{"objective": {"name": ["a"]}}': 'config.json',
    b'{"latent": {}, "objective": "vae"}': 'config.json',
    b'{"evaluation": {"metrics": 3}}': 'config.json',
  }.items(),
  ids=lambda x: repr(x[:30]),
)
def test_a_stored_config_that_is_none_is_one_line(content, message, tmp_path):
  (tmp_path / 'config.json').write_bytes(content)
  assert str(tmp_path) in refused(message, store.open_run, RunFolder.at(tmp_path))


def test_a_run_says_nothing_of_where_to_write_or_what_is_compiled(tmp_path):
  """Compiled programs are code as well."""
  fields = {'compilation_cache': 'compiled'}
  fields |= within('average', out='elsewhere')
  fields |= within('convert', out='elsewhere')
  fields |= within('report', runs=['elsewhere'])
  stored_run(tmp_path, **fields)
  config = store.open_run(RunFolder.at(tmp_path))
  assert config.compilation_cache is None
  assert not config.average.out and not config.convert.out
  assert config.report.runs == ()
  used = store.of_run(RunFolder.at(tmp_path), read('digits'), [])
  assert used.compilation_cache is None and not used.convert.out
