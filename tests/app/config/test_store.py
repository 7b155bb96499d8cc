"""A config file, a run and flags give one complete config."""

import functools
import json
import math

import pytest
from hypothesis import given, settings, strategies as st
from ml_collections import ConfigDict

from configs import base
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import (
  autoencoders,
  classifier,
  diffusion,
  few_steps,
  latent,
  roles,
  sections,
  store,
)
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import CONFIGS, DIGITS, read, refused, smoke, stored_run
from tests.app.fields import within

ROOT = CONFIGS.parent
FILES = sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem not in ('__init__', 'base'))
ALL = [
  (name, variant)
  for name in FILES
  for variant in ('', *getattr(store.module_of(str(CONFIGS / f'{name}.py')), 'VARIANTS', ()))
]


def with_flags(name, *flags):
  return store.with_flags(read(name), [f.split('=', 1) for f in flags])


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
  config = store.completed(store.from_file(path, variant))
  assert f'configs/{name}.py' in str(store.module_of(path).__doc__)
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


# -- flags -------------------------------------------------------------------


def texts_of(config):
  """Yields the flags that set every field of a config."""
  fields = {'latent': None, **folder.flat(config.to_dict())}
  if 'latent.name' in fields:
    del fields['latent']
  for path, value in fields.items():
    yield path, store.as_text(value)


@given(one=st.sampled_from(ALL), other=st.sampled_from(ALL), draw=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_fields_of_any_config_as_flags_in_any_order_give_it(one, other, draw):
  """A config's flags turn any other config into it."""
  one, other = (read(':'.join(filter(None, name))) for name in (one, other))
  flags = [*texts_of(other)]
  draw.shuffle(flags)
  found = folder.flat(store.with_flags(one, flags).to_dict())
  expected = folder.flat(other.to_dict())
  more = {*found} - {*expected}  # sections that a config can also have
  assert all(path.startswith(('noise.', 'evaluation.')) for path in more)
  assert {path: found[path] for path in expected} == expected


def test_what_is_typed_daily_is_one_short_flag():
  config = with_flags(
    'digits', 'training.batch_size=8', 'training.num_steps=5', 'seed=3',
    'sampling.num_steps=20', 'sampling.sampler=heun', 'sampling.num_samples=4',
    'sampling.guidance.scale=2', 'optimizer.learning_rate=1e-3',
    'sampling.labels=3', 'evaluation.metrics=elbo,ode',
    'evaluation.ode.tolerance=1e-3', 'sampling.prompt=a, b',
  )  # fmt: skip
  assert config.training.batch_size == 8 and config.training.num_steps == 5
  assert config.sampling.sampler.to_dict() == {'name': 'heun'}
  guidance = config.sampling.guidance  # was None
  assert (guidance.name, guidance.scale) == ('classifier_free', 2.0)
  assert guidance.interval == (0.0, math.inf) and config.sampling.labels == ('3',)
  assert config.evaluation.ode.tolerance == 1e-3
  assert config.sampling.prompt == 'a, b'
  assert config.evaluation.metrics == ('elbo', 'ode')
  for text in 'None', 'none':
    off = store.with_flags(config, [('sampling.guidance', text)])
    assert off.sampling.guidance is None


@pytest.mark.parametrize('text', ['None', ''])
def test_none_is_a_list_of_nothing(text):
  """Of a list of any length: data.context=None says what conditioning.context=None does."""
  fields = 'data.context', 'data.categories', 'data.bounds', 'sampling.labels', 'training.log_to'
  for field in fields:
    config = with_flags('vectors', 'data=csv', 'data.x=a', f'{field}={text}')
    assert config.at(field) == ()
  refused('training.machine.mesh=', with_flags, 'digits', f'training.machine.mesh={text}')


@pytest.mark.parametrize('flags, path, name', [
  (('sampling.churn.s_churn=40.0',), 'sampling.churn', 'edm'),
  (('objective.uncertainty.features=9',), 'objective.uncertainty', 'fourier'),
  (('latent.run=x',), 'latent', 'autoencoder'),
  (('sampling.guidance.run=x', 'sampling.guidance=autoguidance'),
   'sampling.guidance', 'autoguidance'),
  (('sampling.schedule.schedule.num_steps=9', 'sampling.schedule=shifted'),
   'sampling.schedule.schedule', 'linear'),
])  # fmt: skip
def test_a_part_that_is_none_becomes_the_choice_that_a_flag_sets(flags, path, name):
  config = with_flags('digits', *flags)
  field, _, value = flags[0].partition('=')
  flat = folder.flat(config.to_dict())
  assert flat[f'{path}.name'] == name and str(flat[field]) == value


def test_fields_that_all_choices_have_stay_with_another_choice():
  config = with_flags('regression', 'data=two_moons')
  assert config.data.validation_fraction == read('regression').data.validation_fraction > 0


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


def test_the_config_that_is_given_is_not_changed():
  config = read('digits')
  before = config.to_dict()
  store.with_flags(config, [('network', 'dit'), ('seed', '3')])
  store.completed(config)
  assert config.to_dict() == before


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


# -- config files --------------------------------------------------------------


@pytest.mark.parametrize(
  'text, message',
  {
    'def get_config(:\n  pass\n': 'mine.py, line 1: invalid syntax',
    'x = 1\n': 'mine.py is not a config: it has no function get_config',
    'def get_config():\n  pass\n': r'get_config\(\) returned NoneType, not',
    'def get_config():\n  return {"seed": 1}\n': r'get_config\(\) returned dict',
    '\ndef get_config():\n  return int("a")\n': 'mine.py, line 3: ValueError',
    'import nothing_of_this_name\n': 'mine.py, line 1: ModuleNotFoundError',
    'def get_config():\n  raise SystemExit(3)\n': 'line 2: SystemExit: 3',
    'from configs import base\ndef get_config():\n'
    '  return base.get_config().training.num_steps\n': (
      'mine.py, line 3: AttributeError.* set the field first'
    ),
  }.items(),
)
def test_a_file_that_gives_no_config_says_where(text, message, tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_text(text)
  monkeypatch.chdir(tmp_path)
  for path in ('mine.py', str(tmp_path / 'mine.py')):
    refused(message, store.from_file, path)


def test_the_sections_of_a_file_may_be_empty_or_absent():
  config = store.completed(base.get_config())
  assert config.evaluation.elbo.decoder == 'gaussian'  # of the default metrics
  for content in (config.to_dict(), {}):
    again = store.completed(ConfigDict(content))
    assert again.to_dict() == config.to_dict()


def test_the_argument_of_a_config_is_one_of_its_variants():
  path = str(CONFIGS / 'digits.py')
  message = r"digits.py:inpaintin \(did you mean 'inpainting'\?\).* can be smok"
  refused(message, store.from_file, path, 'inpaintin')
  refused('can be smoke$', store.from_file, str(CONFIGS / 'digits_vae.py'), 'x')
  one, other = (
    store.from_file(str(CONFIGS / 'cifar10_vp.py'), argument) for argument in ('', 'vp')
  )
  assert one.to_dict() == other.to_dict()


@pytest.fixture
def swept(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs.digits import get_config, VARIANTS\n'
    'def sweep():\n'
    '  for rate in (0.1, 0.2):\n'
    "    yield {'optimizer.learning_rate': rate, 'training.machine.mesh': (1, 1)}\n"
  )
  return str(path)


def test_a_change_of_a_sweep_is_flags(swept, tmp_path):
  flags = store.sweep(swept, 1)
  config = store.with_flags(read('digits'), flags)
  assert config.optimizer.learning_rate == 0.2
  assert config.training.machine.mesh == (1, 1)
  for index in (-1, 2):
    message = f'--sweep_index={index}: .* has 2, 0..1'
    refused(message, store.sweep, swept, index)
  (tmp_path / 'none.py').write_text('def get_config(): pass\n')
  path = str(tmp_path / 'none.py')
  refused(r'none.py has no sweep\(\)', store.sweep, path, 0)


def test_the_facts_of_a_run_go_with_its_data(tmp_path):
  """Other data may have images of another shape."""
  content = folder.plain(smoke()) | {'facts': DIGITS.as_json()}
  config = store.stored(content, tmp_path)
  assert store.with_flags(config, [('seed', '3')]).facts.x.levels == 17
  assert 'facts' not in store.with_flags(config, [('data', 'shapes')])
