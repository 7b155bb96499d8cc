"""The programs that draw samples, and sheets of samples, with the data behind them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageSequence

from diffusion_jax.app.config import folder
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.inputs.conditions import Conditions
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.drawing import (
  ATTEMPTS,
  FEW,
  check_plan,
  draw_sheet,
  generate,
  in_box,
  training_examples,
)
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import drawings
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, smoke, trial, untrained
from tests.app.fields import within
from tests.app.kinds.test_diffusion import model_of
from tests.report.test_page import Page


def test_more_levels_than_steps_are_noted_before_they_are_visited(capsys):
  model = model_of(**{'sampling.num_steps': 5000})
  generate(model, make_mesh(model.config))
  said = capsys.readouterr().out
  assert 'note: sampling.num_steps=5000 is more than the 1,000 steps' in said
  assert ': 1,000 distinct steps are visited, and 4,000 levels between' in said
  model = model_of(**{'sampling.num_steps': 1000})
  generate(model, make_mesh(model.config))
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  'fields, remedy',
  [
    ({}, 'set sampling.grid.spacing=logsnr'),
    ({'sampling.num_steps': 30}, 'set sampling.grid.spacing=logsnr'),
    ({'sampling.num_steps': 100}, ''),
    ({'sampling.grid.spacing': 'logsnr'}, ''),
    ({'sampling.grid.spacing': 'logsnr', 'sampling.num_steps': 4}, 'take more steps'),
    ({'sampling.sampler': 'ddim'}, ''),
    ({'schedule': 'linear'}, ''),
    ({'schedule': 'linear', 'sampling.num_steps': 2}, ''),  # 0.7 times as wide
    ({'sampling.schedule': 'karras', 'sampling.num_steps': 3}, 'take more steps'),
  ],
)
def test_steps_that_are_too_long_for_a_sampler_are_noted(fields, remedy, capsys):
  """Heun's method draws noise in 10 steps of a cosine schedule, and not in 100; a remedy is one."""
  base = {'schedule': 'cosine', 'sampling.sampler': 'heun', 'sampling.num_steps': 10}
  model = model_of(**base | fields)
  generate(model, make_mesh(model.config))
  said = capsys.readouterr().out
  assert said.partition('times too wide: ')[2].strip() == remedy


@pytest.mark.parametrize('experiment', ['digits_edm', 'digits_edm2', 'fields', 'cifar10_edm'])
def test_a_trial_by_heuns_method_takes_steps_enough(experiment, capsys):
  """Catches a note on steps that the user did not choose."""
  config = trial(experiment)
  assert config.sampling.sampler.name == 'heun'
  check_plan(make_model(config, RunFolder.at('nowhere')))
  assert not capsys.readouterr().out


def test_a_sample_always_outside_is_an_error_after_many_attempts():
  """Each sample has its own condition; a drawing for a look stays outside."""
  spec = ArraySpec((1,), mean=(0.0,), std=(2.0,), low=(0.0,), high=(1.0,))
  model: Any = SimpleNamespace(facts=Facts(spec))
  cond = {'x': np.array([[0.25], [9.0], [0.5]], np.float32)}
  inputs = Conditions(cond, {}, np.arange(3), np.arange(3))

  def drawing(params, key, cond):
    return params + cond['x'], None

  index, x = np.array([0, 1]), np.array([[9.0], [9.0]], np.float32)
  params: Any = 0.0
  samples, outside = in_box(model, inputs, drawing, params, index, x, attempts=FEW)
  assert_array_equal(samples, [[0.5], [18.0]])
  assert outside == 1 + FEW
  with pytest.raises(UserError, match=f'sample 1: {ATTEMPTS} draws'):
    in_box(model, inputs, drawing, params, index, x)


@pytest.mark.parametrize(
  'labels, n, columns',
  [((), 40, 10), ((), 300, 20), ((3, 7), 30, 6), ((3, 7, 1), 2, 2), ((4, 0, 5), 100, 9)],
)
def test_the_classes_of_a_sheet_are_its_columns(labels, n, columns):
  """The pictures [8, 8] have the grey level of their label."""
  config = smoke(**{'sampling.labels': labels, 'sampling.num_samples': n})
  model = make_model(config, RunFolder.at('nowhere'))
  grey = 100 + conditions.Labels(model).choose(n)[0]['label'].astype(np.uint8)
  pictures = np.broadcast_to(grey[:, None, None, None], (n, 8, 8, 1))
  sheet = draw_sheet(model, pictures)[..., 0]
  height, width = sheet.shape
  rows = -(-n // columns)
  assert (height, width) == (6 * (9 * rows + 1), 6 * (9 * columns + 1))
  places = sheet[30::54, 30::54].astype(int)  # the middle of each
  asked = labels or range(10)
  for i, column in enumerate(places.T):
    shown = set(column.tolist()) - {32}  # places left empty
    assert shown == {100 + asked[i % len(asked)]}


@pytest.mark.parametrize('prompt, n, columns', [('a|b|c', 12, 3), ('a|b', 98, 10)])
def test_prompts_are_columns_side_by_side(prompt, n, columns):
  """Two columns of 49 pictures would be a strip."""
  config = trial('shapes_text', **{'sampling.prompt': prompt})
  model = make_model(config, RunFolder.at('nowhere'))
  pictures = np.zeros((n, 16, 16, 3), np.uint8)
  height, width, _ = draw_sheet(model, pictures).shape
  rows = -(-n // columns)
  assert (height, width) == (3 * (rows * 17 + 1), 3 * (columns * 17 + 1))


def of_numbers(path, *shape, **changes):
  """Returns the config of a trial on 3000 arrays of real numbers in a file."""
  x = np.random.default_rng(0).standard_normal((3000, *shape)) + 100.0
  np.savez(path, x=x, test_x=x[:50])
  fields = within('data', 'npz', path=path, num_classes=0) | within(
    'network', 'mlp', channels=8, num_blocks=1
  )
  fields |= within('conditioning', labels=False, dropout=0.0) | {'evaluation.metrics': ()}
  return trial(**fields | changes)


def test_random_examples_of_vectors_are_drawn(tmp_path):
  path = tmp_path / 'x.npz'
  model = make_model(of_numbers(path, 2), RunFolder.at(tmp_path))
  found = training_examples(model)
  x = np.load(path)['x']
  place = np.flatnonzero(np.isin(x[:, 0], found[:, 0]))
  assert 100 < np.sum(place % 3 == 1) < 900  # Even spaces would give 0 or 1,000.
  assert found.shape == (2000, 2) and len(np.unique(found[:, 0])) == 2000
  path.unlink()
  assert training_examples(model) is None  # samples need no data
  config = trial('two_moons', **{'data.num_examples': 3000})
  assert len(training_examples(make_model(config, RunFolder.at(tmp_path)))) == 1000
  for config in (smoke(), of_numbers(path, 4, 4, 1)):
    assert training_examples(make_model(config, RunFolder.at(tmp_path))) is None


@pytest.mark.slow
def test_a_run_of_vectors_is_drawn_with_its_data(tmp_path, capsys):
  """Sheet, film and report have the same axes."""
  fields = within('sampling', num_samples=30, batch_size=30, num_steps=2)
  fields |= within('sampling', trajectory=True, name='three')
  config = of_numbers(tmp_path / 'x.npz', 3, **fields)
  workdir = untrained(config, tmp_path / 'run')
  MODES['sample'](config, workdir)
  MODES['report'](config, workdir)
  assert 'leaves out' not in capsys.readouterr().out
  place = workdir / 'samples'
  model = make_model(config, RunFolder.at(workdir))
  data, x = training_examples(model), np.load(place / 'three.npz')['arr_0']
  assert x.shape == (30, 3)
  expected = drawings.sheet(model.facts.x, x, 1, data=data)
  assert_array_equal(Image.open(place / 'three.png'), expected)
  with Image.open(place / 'three.gif') as film:
    assert len([*ImageSequence.Iterator(film)]) > 2
    assert film.size == expected.shape[1::-1]
  page = Page((workdir / 'report.html').read_text())
  labels = [image['alt'] for image in page.all('img')]
  assert any('The first 30 samples on their way' in x for x in labels)
  assert 'in standard deviations' in labels[-1]


def test_no_other_data_are_drawn_behind_samples(tmp_path):
  """A simulator of as many numbers, and one whose context left x."""
  few = within('data', num_examples=100, num_test=16)
  few |= {'training.checkpoints.best': None, 'sampling.checkpoint': 'latest'}
  config = trial('two_moons', **few)
  facts = make_model(config, RunFolder.at(tmp_path)).facts
  folder.write_config(RunFolder.at(tmp_path), config, facts)
  behind = lambda **fields: training_examples(
    make_model(of_run(tmp_path, **fields), RunFolder.at(tmp_path))
  )
  assert behind().shape == (100, 2)
  assert behind(data='gaussian_mixture') is None
  assert behind(**{'data.joint': True}) is None
