"""A user's own parts, `module:attribute`: what they get, and who is trusted.

A config that came with a run or with weights executes nothing.
"""

import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax import errors
from diffusion_jax.app.config import experiments, folder, tree, trust
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import diffusion, rules, store
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Context
from tests.app import toy_parts
from tests.app.conftest import CONFIGS, DIGITS, assert_same, interrupted, params_of, refused, smoke
from tests.app.fields import within

TOY = toy_parts.__name__
# The path of a choice, the user's part, a field of its own, its value.
ROWS = """
network Network width 3
schedule Schedule first 0.2
noise_input noise_input factor 2.0
objective objective factor 2.0
objective.times times power 2.0
objective.weight weight factor 2.0
data pictures count 6
optimizer optimizer rate 0.5
sampling.sampler sampler damping 0.5
sampling.schedule Schedule first 0.2
sampling.guidance Guidance scale 2.0
"""
PARTS = {path: part for path, *part in map(str.split, ROWS.strip().splitlines())}
OTHERS = """
parametrization edit latent conditioning.text conditioning.image objective.uncertainty
sampling.classifier sampling.churn sampling.corrector
"""
PLACES = *PARTS, *OTHERS.split()


@pytest.fixture(autouse=True)
def nothing_is_allowed(monkeypatch):
  """Forgets the names that other tests have allowed."""
  monkeypatch.setattr(trust, '_allowed', set())
  errors.OWN.clear()


def plain(*flags):
  """Returns digits without labels, changed by flags."""
  config = experiments.from_file(str(CONFIGS / 'digits.py'))
  config.conditioning = ConfigDict()
  return store.with_flags(store.completed(config), flags)


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('path', PARTS)
def test_a_part_and_its_own_fields_are_set_by_flags(path, first):
  part, field, value = PARTS[path]
  flags = [(path, f'{TOY}:{part}'), (f'{path}.{field}', value)]
  config = plain(*(flags if first else flags[::-1]))
  flat = folder.flat(config.to_dict())
  assert flat[f'{path}.name'] == f'{TOY}:{part}'
  assert repr(flat[f'{path}.{field}']) == value
  stored = store.stored(json.loads(json.dumps(folder.plain(config))), 'x')
  assert stored.to_dict() == config.to_dict()  # a name that has been given
  message = f'no field config.{path}.nothing; config.{path}={TOY}:{part} has '
  refused(message, plain, flags[0], (f'{path}.nothing', '1'))


def test_parts_are_made_with_facts_and_fields(tmp_path, key):
  """One model has all parts; its loss is twice the loss of a zero output."""
  flags = [
    flag
    for path, (part, field, value) in PARTS.items()
    for flag in ((path, f'{TOY}:{part}'), (f'{path}.{field}', value))
    if path not in ('objective.times', 'objective.weight', 'sampling.guidance')
  ]
  config = plain(*flags)
  source = datasets.source_of(config)
  assert len(source) == 6 and source.facts.num_classes == 10
  model: Any = make_model(config, RunFolder.at(tmp_path))
  assert model.noisy.network == toy_parts.Network(out_channels=1, width=3)
  assert not [*lines(model.refusals, config, 'train', RunFolder.at(tmp_path), model.facts)]
  (visited, levels, sampler, *_), trained = model.plan(), model.noisy.schedule()
  assert trained == toy_parts.Schedule(0.2) == visited
  assert config.sampling.schedule is not None
  assert len(levels.t) == config.sampling.grid.number + 1
  level = trained(np.float32([0.5]))
  assert_allclose(model.noisy.process.noise_input(level), [1.0])
  made: Any = config.optimizer.make({'total_steps': 10})
  optimizer, rate = made
  assert rate(5) == 0.25
  # sgd, whose rate the training step multiplies
  state = optimizer.init({'a': 0.0})
  updates: Any = optimizer.update({'a': jnp.ones(2)}, state)[0]
  assert_allclose(updates['a'], -1.0)

  @jax.jit
  def steps_and_losses(key, x):
    denoise = lambda x, level: dj.Prediction(0.5 * x)
    take = lambda sampler: sampler.step(
      key, x, (), denoise, level_s=levels.take(1), level_t=levels.take(0)
    )[0]
    shapes, batch = model.shapes(), {'x': x, 'label': jnp.zeros(1, int)}
    params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), shapes)
    plain_loss = toy_parts.objective(model.noisy.trained(), trained)
    losses = [loss(params, Context(), key, batch)[0] for loss in (model.objective(), plain_loss)]
    return take(sampler), take(toy_parts.sampler()), *losses

  found, once, loss, expected = steps_and_losses(key, np.ones((1, 8, 8, 1)))
  assert_allclose(found, 0.5 * once, rtol=1e-6)
  assert_allclose(loss, 2 * expected, rtol=1e-6)


NO_PARTS = """
os:system os:popen os:getcwd subprocess:run subprocess:call subprocess:Popen builtins:eval
builtins:exec builtins:exit builtins:dict shutil:rmtree pickle:load runpy:run_path sys:modules
sys:version
""".split()


def found(path, name, facts):
  """Returns the constructor that a field of a diffusion model names."""
  return trust.find(path, name, facts, diffusion.SCHEMA.contract(path))


@pytest.mark.parametrize('path', PLACES)
def test_what_is_no_part_is_refused_in_every_place_uncalled(path):
  trust.allow(NO_PARTS)  # as if the user had named them
  for name in NO_PARTS:
    refused(f"config.{path}='{name}': ", found, path, name, ())


def test_facts_need_no_default_and_partial_functions_are_parts(monkeypatch):
  module = sys.modules[__name__]

  def levels(schedule, *, order=1):
    return order

  partial = functools.partial(levels, order=2)
  for name, part in {'of_facts': levels, 'partial': partial}.items():
    monkeypatch.setattr(module, name, part, raising=False)
    trust.allow([f'{__name__}:{name}'])
    assert found('sampler', f'{__name__}:{name}', ('schedule',)) is part
  message = f"weight='{__name__}:of_facts': its parameter schedule needs a def"
  refused(message, found, 'objective.weight', f'{__name__}:of_facts', ())


@pytest.mark.parametrize('error', ['RuntimeError("no licence")', 'Exception', '1 / 0'])
def test_a_module_that_raises_while_it_is_imported_is_one_line(error, tmp_path, monkeypatch):
  (tmp_path / 'own_raising.py').write_text(error if '/' in error else f'raise {error}')
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, 'own_raising', raising=False)
  words = {'1 / 0': 'division by zero', 'Exception': 'Exception'}.get(error, 'no licence')
  refused(f"'own_raising:x' cannot be imported: {words}$", plain, ('schedule', 'own_raising:x'))


def no_sum(count=1):
  return sum([count, 'a'])  # type: ignore


def test_a_type_error_within_a_part_is_its_own():
  """A call of a part with wrong arguments is a user's error; a TypeError inside the part is not."""
  trust.allow([f'{TOY}:Schedule'])
  with pytest.raises(UserError, match='^config.x: .* unexpected keyword'), tree.from_config('x'):
    toy_parts.Schedule(**{'size': 2})
  trust.allow([f'{__name__}:no_sum'])
  config = plain(('schedule', f'{__name__}:no_sum'))
  with pytest.raises(TypeError, match='unsupported operand') as error:
    config.schedule.make()
  assert error.traceback[-1].name == 'no_sum'


CAREFUL, NOISY = f'{TOY}:careful', f'{TOY}:noisy_sampler'
TEXTS, NUMBERS = Facts(ArraySpec((16,), 256)), Facts(ArraySpec((8, 8, 1)))


@pytest.mark.parametrize('flags, mode, facts, line', [
  (
    {'objective': CAREFUL}, 'train', TEXTS,
    f'objective={CAREFUL} needs pictures, uint8 [H, W, C], and your data are 256 levels [16] '
    'without a context: take objective=denoising',
  ),
  (
    {'objective': CAREFUL}, 'train', DIGITS,
    f'objective={CAREFUL}: a mean over 64 examples is too noisy: set training.batch_size=512',
  ),
  (
    {'sampling.sampler': NOISY, 'sampling.sampler.damping': '1.0'}, 'sample', NUMBERS,
    'sampling.sampler.damping=1.0 needs levels, as pictures and texts have, and your data are real '
    'numbers [8, 8, 1] without a context: uint8 arrays have levels; leave it out for real numbers',
  ),
  (
    {'sampling.sampler': NOISY, 'objective.coupling': 'exact'}, 'sample', DIGITS,
    f'sampling.sampler={NOISY} takes noise to be independent of x_0, and objective.coupling=exact '
    'pairs them: take steps of the ODE, such as sampling.sampler=ddim with eta=0',
  ),
  (
    {'sampling.sampler': NOISY, 'edit': 'sdedit', 'edit.mask': 'm.png'}, 'edit', DIGITS,
    f'edit.mask changes x between steps, which sampling.sampler={NOISY} would undo: take another '
    'sampler',
  ),
])  # fmt: skip
def test_a_part_that_declares_what_it_needs_is_refused_without(flags, mode, facts, line):
  config = plain(*flags.items())
  rows = *config.schema.rules, *rules.CONFLICTS
  assert f'config.{line}' in [*lines(rows, config, mode, RunFolder.at(''), facts)]


def test_a_part_that_declares_that_it_denoises_has_a_floor(tmp_path):
  for part, has_floor in {'careful': True, 'objective': False}.items():
    model = make_model(plain(('objective', f'{TOY}:{part}')), RunFolder.at(tmp_path), DIGITS)
    assert (model.losses is not None) == has_floor


def test_an_objective_trains_parameters_of_its_own(tmp_path):
  """Its c goes to the mean of the data; they are averaged, stored and resumed bit for bit."""
  fields = {'objective': f'{TOY}:centred', 'optimizer.decay': 'constant'}
  fields |= {'optimizer.learning_rate': 0.05, 'optimizer.warmup_steps': 0}
  fields |= {'training.num_steps': 60, 'training.steps_per_call': 20}
  config = smoke(**fields, **within('training.checkpoints', every=20, keep=2))
  whole = tmp_path / 'whole'
  MODES['train'](config, whole)
  part = interrupted(whole, tmp_path / 'part', lost='60')
  MODES['train'](config, part)
  assert_same(*(params_of(x) for x in (whole, part)))
  x = DIGITS.x.encode(datasets.source_of(smoke()).read(np.arange(1437))['x'])
  last = params_of(whole)['centre']['c']
  assert abs(last - x.mean()) < 0.08 < abs(x.mean() + 0.8)
  MODES['sample'](config, whole)


@pytest.mark.parametrize('branch', ['network', 'schedule', 'teacher'])
def test_parameters_of_an_objective_have_names_of_their_own(branch, tmp_path):
  config = smoke(**{'objective': f'{TOY}:centred', 'objective.branch': branch})
  shapes = make_model(config, RunFolder.at(tmp_path)).shapes
  refused(f'a dict of names other than network, .*, not {branch}', shapes)


def test_adapters_leave_no_parameters_to_an_objective(digits_run, tmp_path):
  start = within('training.start', 'adapters', run=str(digits_run))
  config = smoke(**{'objective': f'{TOY}:centred', **start})
  refused('adapters trains only those, and .*:centred has', MODES['train'], config, tmp_path)
