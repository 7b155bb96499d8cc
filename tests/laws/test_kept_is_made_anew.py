"""Law: a kept thing is made again when something that it is made of changes.

A table of what is kept and of its inputs, in which each pair is tried. What a thing is made of
names its file, or is compared with what the file says. What is known only when the thing is made
is in `test_what_parts_read.py`, and data in `test_other_data_are_noticed.py`. Planted faults are
the rows of tests/faults.txt with `anew`.
"""

import contextlib
import functools
import importlib
import json
import shutil
import sys

import numpy as np
import pytest

from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import MODES, average, encode
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import floors
from diffusion_jax.data import code_sums, drawings, simulations
from diffusion_jax.metrics import references
from diffusion_jax.runtime import start_up
from diffusion_jax.runtime.files import read_json, write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights.averages import MadeAverage
from tests.app.conftest import of_run, smoke, trial, untrained
from tests.app.fields import within
from tests.rows import slow

# Each of the user's modules is in a folder of its own, with a helper that imports a package.
MODULES = {
  'network': """
from tests.app.small_network import SmallNetwork as Network
""",
  'guide': """
from tests.app.small_network import SmallNetwork as Network
""",
  'autoencoder': """
from tests.app.small_network import SmallAutoencoder as Autoencoder
""",
  'sampler': """
import diffusion_jax as dj
from diffusion_jax.paths import ReadPath
def ddim(table: ReadPath = ''):
  return dj.ddim()
""",
  'objective': """
def weight():
  return lambda level: level.sigma
""",
  'metric': """
from diffusion_jax.metrics.metric import SampleMetric
from diffusion_jax.paths import ReadPath
def score(table: ReadPath = ''):
  return SampleMetric(lambda samples, reference: [], {'a': True}, ('values',))
""",
  'reward': """
def reward(x0):
  return x0.mean(axis=(1, 2, 3))
""",
  'simulator': """
from diffusion_jax.ranges import Count
def simulate(rng, n, table: str = ''):
  return {'x': rng.normal(size=(n, 2))}
""",
}


STEER = {'edit': 'steer', 'edit.reward': 'kept_reward:reward'}


class Found(Exception):
  """Ends a mode as soon as it is known what a kept thing is made of."""


@contextlib.contextmanager
def stopped(patch):
  """Makes `provenance.making` raise Found; yields the list that it fills."""
  found = []

  def making(workdir, name, settings, *args, **named):
    found.append(settings)
    raise Found

  patch.setattr(provenance, 'making', making)
  with contextlib.suppress(Found):
    yield found


class World:
  """The runs and files that kept things are made of; `fields`: what a command sets."""

  def __init__(self, place):
    self.place, self.fields, self.weights = place, {}, np.ones(2)
    self.installed = place / 'site-packages'
    self.ours = shutil.copytree(  # not below `place`, which is copied often
      code_sums.PACKAGE,
      place.with_name('changed') / code_sums.PACKAGE.name,
      ignore=shutil.ignore_patterns('__pycache__'),
    )
    for name in 'sampling/ancestral.py', 'ranges.py':
      with (self.ours / name).open('a') as file:
        file.write('CHANGED = 1\n')
    for name, code in MODULES.items():
      (place / name).mkdir()
      (place / name / f'kept_{name}.py').write_text(f'import {name}_helper\n{code}')
      (place / name / f'{name}_helper.py').write_text('import kept_package\n')
      sys.path.insert(0, str(place / name))
    info = self.installed / 'kept_package-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'RECORD').write_text('kept_package.py,sha256=a,1\n')
    (self.installed / 'kept_package.py').write_text('')
    sys.path.insert(0, str(self.installed))
    (place / 'tables').mkdir()
    np.save(place / 'tables' / 'a.npy', np.ones(3))
    drawings.write_png(place / 'image.png', np.zeros((8, 8, 1), np.uint8))
    self.run, self.guide, self.autoencoder, self.latents = (
      place / f'{x}_run' for x in ('plain', 'guide', 'autoencoder', 'latents')
    )
    own = {'network': 'kept_network:Network', 'objective.weight': 'kept_objective:weight'}
    untrained(smoke(**own), self.run)
    self.make_guide()
    self.make_autoencoder()
    config = trial('digits_latent', small=True, **{'latent.run': str(self.autoencoder)})
    make_model(config, RunFolder.at(self.latents)).autoencoder.prepare(*self._images(config))
    untrained(config, self.latents)

  def make_guide(self, deviation=0.2):
    """Writes the run that guides."""
    shutil.rmtree(self.guide, ignore_errors=True)
    untrained(smoke(network='kept_guide:Network'), self.guide, deviation)

  def make_autoencoder(self, deviation=0.2):
    """Writes the run of an autoencoder."""
    shutil.rmtree(self.autoencoder, ignore_errors=True)
    config = trial('digits_autoencoder', network='kept_autoencoder:Autoencoder')
    untrained(config, self.autoencoder, deviation)

  def _images(self, config):
    return datasets.source_of(config), weights.make_mesh(config)

  def opened(self, run, **fields):
    """Returns the run in a folder, as a command opens it."""
    return weights.Run.open(of_run(run, **fields | self.fields), RunFolder.at(run))


def settings(world, patch, mode, run, **fields):
  """Returns what a mode would keep."""
  with stopped(patch) as found:
    MODES[mode](of_run(run, **fields | world.fields), str(run))
  return found[0]


def samples(world, patch):
  own = within('sampling', sampler='kept_sampler:ddim', sampler__table=world.place / 'tables')
  return settings(world, patch, 'sample', world.run, **own)


def guided(world, patch):
  guide = within('sampling.guidance', 'autoguidance', run=world.guide, scale=2)
  return settings(world, patch, 'sample', world.run, **guide)


def of_latents(world, patch):
  return settings(world, patch, 'sample', world.latents)


def edit(world, patch):
  fields = {'edit': 'sdedit', 'edit.image': world.place / 'image.png'}
  return settings(world, patch, 'edit', world.run, **fields)


def steered(world, patch):
  return settings(world, patch, 'edit', world.run, **STEER)


def scores_of_samples(world, patch):
  drawn = world.place / 'drawn.npz'
  np.savez(drawn, settings=provenance.as_array(samples(world, patch)))
  section = {'metrics': ['kept_metric:score'], 'score': {'table': str(world.place / 'tables')}}
  config = of_run(world.run, **{'evaluation.metrics': 'kept_metric:score'})
  assert config.evaluation.score is not None  # it imports the module
  return provenance.of_scores(drawn, {'evaluation': section}, {'values': world.weights})


def scores_of_examples(world, patch):
  fields = {'evaluation.metrics': 'loss', 'evaluation.num_images': 3}
  return settings(world, patch, 'evaluate', world.run, **fields)


def statistics(world, patch):
  patch.setattr(references, 'load', lambda *args: ({}, references.describe(*args[:3])))
  model = world.opened(world.run, **{'evaluation.features': 'pixels'}).model
  return scorers.load_reference(model, scorers.make_extractor(model, 'pixels'), 'train')[1]


def losses(world, patch):
  own = {'objective.weight': 'kept_objective:weight'}
  model = make_model(smoke(**own | world.fields), RunFolder.at(world.run))
  facts = world.opened(world.run).model.facts._replace(checksum='a')
  return floors.settings_of(make_model(model.config, RunFolder.at(world.run), facts), 'test', 8)


def stored_latents(world, patch):
  def record_of(path, record, whole):
    raise Found(record)

  patch.setattr(encode, 'check_record', record_of)
  fields = {'latent.run': str(world.autoencoder), 'latent.path': str(world.place / 'tables')}
  config = trial('digits_latent', small=True, **fields | world.fields)
  with pytest.raises(Found) as error:
    MODES['encode'](config, world.place / 'new')
  return error.value.args[0]


def averaged(world, patch):
  made = MadeAverage({'network': world.weights}, 0.1, 4, 32, 1, 0.0)
  return average.settings_of(world.opened(world.run).model, made)


def simulated(world, patch):
  simulate = importlib.import_module('kept_simulator').simulate
  with_table = functools.partial(simulate, table=str(world.place / 'tables'))
  return simulations._name(with_table, (0, False, 0), 1)


# -- inputs: each changes one ----------------------------------------------------


def nothing(world, patch):
  pass


def the_weights(world, patch):
  patch.setattr(world, 'weights', 2 * world.weights)


def the_config(world, patch):
  change_config(world.run, lambda content: content.update(seed=5))


def the_facts(world, patch):
  change_config(world.run, lambda content: content['facts']['x'].update(names=['grey']))


def change_config(run, change):
  content = read_json(run / 'config.json')
  change(content)
  write_summed(run / 'config.json', content)
  shutil.rmtree(run / 'checkpoints')  # which would show it


def the_versions(world, patch):
  patch.setattr(start_up, 'versions', lambda packages=(): {'jax': '0'})
  patch.setattr(np, '__version__', '0')


def the_precision(world, patch):
  patch.setitem(world.fields, 'matmul_precision', 'high')


def the_computation(world, patch):
  patch.setitem(world.fields, 'network.dtype', 'bfloat16')


def our_code(world, patch):
  patch.setattr(code_sums, 'PACKAGE', world.ours)


def a_package(world, patch):
  before = world.installed / 'kept_package-1.0.dist-info'
  before.rename(world.installed / 'kept_package-1.1.dist-info')


def code_of(name):
  """Returns changes of a user's module, of the module that it imports, and of its package."""

  def changed(file):
    def change(world, patch):
      path = world.place / name / file
      path.write_text(f'{path.read_text()}B = 2\n')

    change.__name__ = file
    return change

  return changed(f'kept_{name}.py'), changed(f'{name}_helper.py'), a_package


def a_file(world, patch):
  drawings.write_png(world.place / 'image.png', np.ones((8, 8, 1), np.uint8))


def a_folder(world, patch):
  np.save(world.place / 'tables' / 'a.npy', np.zeros(3))


def a_name_in_a_folder(world, patch):
  (world.place / 'tables' / 'a.npy').rename(world.place / 'tables' / 'b.npy')


def the_guide(world, patch):
  world.make_guide(deviation=0.1)


def the_scale(world, patch):
  record = read_json(world.latents / 'latent.json')
  write_summed(world.latents / 'latent.json', record | {'scale': 9.0})


def the_autoencoder(world, patch):
  change_config(
    world.latents / 'autoencoder', lambda content: content['facts']['x'].update(levels=99)
  )


def the_encoder(world, patch):
  world.make_autoencoder(deviation=0.1)


def the_data(world, patch):
  patch.setitem(world.fields, 'data.quarter_turns', 1)


ALL = the_versions, the_precision, our_code
OF_RUN = the_weights, the_config, the_facts, the_computation, *code_of('network'), *ALL
MADE_OF = {
  samples: (*OF_RUN, *code_of('sampler'), a_folder, a_name_in_a_folder),
  guided: (*OF_RUN, *code_of('guide'), the_guide),
  of_latents: (*ALL, *code_of('autoencoder'), the_weights, the_scale, the_autoencoder),
  edit: (*OF_RUN, a_file),
  steered: code_of('reward'),
  scores_of_samples: (*OF_RUN, *code_of('sampler'), *code_of('metric'), a_folder),
  scores_of_examples: (*OF_RUN, *code_of('objective'), the_data),
  statistics: (*ALL, the_data),
  losses: (*ALL, *code_of('objective'), the_facts, the_data),
  stored_latents: (*ALL, *code_of('autoencoder'), the_encoder, the_data),
  averaged: (*ALL, the_weights, the_config, the_facts),
  simulated: (*code_of('simulator'), the_versions, our_code, a_folder, a_name_in_a_folder),
}


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  patch = pytest.MonkeyPatch()
  patch.setattr(sys, 'path', [*sys.path])
  patch.setattr(sys, 'dont_write_bytecode', True)
  yield World(tmp_path_factory.mktemp('kept'))
  patch.undo()


# Changes of objects in memory: the others write into the folders of the world.
IN_MEMORY = the_weights, the_versions, the_precision, the_computation, our_code, the_data


@contextlib.contextmanager
def change_of(world, place, change):
  """Makes a change, which ends with the context.

  Sums of code are forgotten, as a new process has none, where the change may be one of code.
  """
  memories = () if change in IN_MEMORY else (code_sums.of_module, code_sums.of_installed)
  memories = (code_sums.of_package, code_sums.of_module) if change is our_code else memories
  for memory in memories:
    memory.cache_clear()
  if change not in IN_MEMORY:
    shutil.copytree(world.place, place)
  with pytest.MonkeyPatch.context() as patch:
    change(world, patch)
    yield patch
  for memory in memories:
    memory.cache_clear()
  if change not in IN_MEMORY:
    shutil.rmtree(world.place)
    place.rename(world.place)


# Guided samples are of the run too, and scores of samples of what else samples are of.
ROWS = [slow(thing) if thing is samples else thing for thing in MADE_OF]


@pytest.mark.parametrize('thing', ROWS, ids=lambda thing: thing.__name__)
def test_a_change_of_an_input_makes_it_anew(thing, world, tmp_path, monkeypatch):
  monkeypatch.setattr(weights, 'restore', lambda model: ({'network': world.weights}, 4))
  monkeypatch.setattr(weights.Run, 'on_devices', {})

  def made_of(change):
    with change_of(world, tmp_path / 'before', change) as patch:
      return json.dumps(thing(world, patch), sort_keys=True)

  first = made_of(nothing)
  assert made_of(nothing) == first
  same = [change.__name__ for change in MADE_OF[thing] if made_of(change) == first]
  assert not same


def test_comments_docstrings_and_layout_of_our_code_change_nothing(tmp_path, monkeypatch):
  """So a result is not made again for words; a number counts, and a docstring of the user's."""
  text = '"""Words."""\ndef f(x):\n  """Words."""\n  return x + 1.0\n'
  same = '"""Other."""\n# A comment.\n\ndef f(x):\n  return x + 1.0\n'
  sums = []
  for i, content in enumerate((text, same, same.replace('1.0', '2.0'))):
    (tmp_path / str(i)).mkdir()
    (tmp_path / str(i) / 'a.py').write_text(content)
    monkeypatch.setattr(code_sums, 'PACKAGE', tmp_path / str(i))
    code_sums.of_package.cache_clear()
    sums.append(code_sums.of_package())
  code_sums.of_package.cache_clear()
  assert sums[0] == sums[1] != sums[2]
  assert code_sums.of_file(tmp_path / '0' / 'a.py') != code_sums.of_file(tmp_path / '1' / 'a.py')
