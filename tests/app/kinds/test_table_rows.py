"""Rows of a table through the program: an untrained network has a law that is known.

Its output is 0, so that numbers are drawn from a normal, that is each from its own column, and
categories are uniform.
"""

import csv
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import ks_2samp

from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.data import pipeline
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, kept, of_run, refused, trial, untrained
from tests.app.fields import within

COUNT = 2000
FEW = within('sampling', num_samples=COUNT, batch_size=COUNT, num_steps=20)
FEW |= {'data.missing': 'unknown'}
COLUMNS = 'region', 'member', 'age', 'since', 'visits', 'spent', 'income'


def made(**changes) -> Any:
  return make_model(trial('table', **FEW | changes), RunFolder.at('nowhere'))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'table'
  return untrained(trial('table', **FEW), workdir, deviation=0.0)


def rows_of(path):
  with path.open() as file:
    return [*csv.reader(file)]


def sample(run, name='rows', **fields):
  MODES['sample'](of_run(run, **{'sampling.name': name}, **fields), run)
  return arrays_of(run, name)['arr_0'], rows_of(kept(run / 'samples', name, '.csv'))


@pytest.fixture(scope='module')
def drawn(run):
  return sample(run)


def test_an_untrained_network_draws_each_column_by_itself(run, drawn):
  x, _ = drawn
  model = make_model(of_run(run), RunFolder.at(run))
  data = datasets.source_of(model.config).read(slice(None))['x']
  for i, texts in enumerate(model.facts.x.categories):
    if texts:
      shares = np.bincount(x[:, i].astype(int), minlength=len(texts)) / COUNT
      assert np.all(abs(shares - 1 / len(texts)) < 4.5 * np.sqrt(0.25 / COUNT))
    else:
      known = data[~np.isnan(data[:, i]), i]
      assert ks_2samp(x[:, i], known)[0] < 1.95 * np.sqrt(1 / COUNT + 1 / len(known)) + 0.005


def test_samples_are_a_table_like_the_data(drawn):
  _, (head, *rows) = drawn
  assert head == [*COLUMNS] and len(rows) == COUNT
  columns = dict(zip(head, zip(*rows, strict=True), strict=True))
  assert {*columns['region']} == {'north', 'south', 'east', 'west'}
  assert {*columns['member']} == {'yes', 'no'}
  assert all(len(x) == 10 and x[4] == '-' for x in columns['since'])
  assert all(x.isdecimal() for n in ('age', 'visits', 'income') for x in columns[n])
  assert all(len(x.partition('.')[2]) == 2 for x in columns['spent'])


def test_any_cells_are_given_and_the_others_drawn(run, drawn, tmp_path):
  path = tmp_path / 'known.csv'
  path.write_text('income,region,visits,since\n30000,west,,2020-02-29\n,,0,\n')
  fields = {'sampling.context': path, 'sampling.num_samples': 1000}
  _, (head, *rows) = sample(run, 'given', **fields)
  columns = dict(zip(head, zip(*rows, strict=True), strict=True))
  assert {*columns['region'][:1000]} == {'west'} and len({*columns['region'][1000:]}) == 4
  assert {*columns['income'][:1000]} == {'30000'} and len({*columns['income'][1000:]}) > 100
  assert {*columns['since'][:1000]} == {'2020-02-29'}
  assert {*columns['visits'][1000:]} == {'0'} and len({*columns['visits'][:1000]}) > 3
  for text, words in {
    'regions\nwest\n': "no column 'regions'",
    'region\nWest\n': "row 2, column 'region': 'West'",
    'age\nold\n': "row 2, column 'age': 'old' is not a number",
    ','.join(COLUMNS) + '\nwest,yes,30,2020-01-01,1,3.00,30000\n': 'gives all numbers of x',
  }.items():
    path.write_text(text)
    refused(
      words,
      conditions.choose,
      make_model(of_run(run, **{'sampling.context': path}), RunFolder.at(run)),
    )


def test_cells_may_be_given_by_a_dict(run):
  model = Run.open(of_run(run), RunFolder.at(run)).model
  rows = conditions.Contexts(model).rows({'age': [30, None], 'region': ['west', '']}, 'context')
  age, region = COLUMNS.index('age'), COLUMNS.index('region')
  assert_array_equal(rows[:, [region, age]], [[3, 30], [np.nan, np.nan]])


def test_the_variables_and_rows_are_inverses():
  model = made().measured
  x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 7)), jnp.float32)
  x = x.at[0, 0].set(jnp.nan).at[1, 4].set(jnp.nan)
  arrays = model.split(x)
  assert_array_equal(model.joined(arrays)[2:], x[2:])
  assert arrays['categories'][0, 0] == -1 and jnp.isnan(arrays['numbers'][1, 2])


def test_what_is_not_known_changes_no_loss():
  """Cells that are missing in the data have no loss, and are noise for the others."""
  model = made()
  objective = model.objective(test=True)
  params = jax.jit(model.init)(jax.random.key(0))
  batch = pipeline.batch_at(datasets.source_of(model.config), 64, 0, 0, facts=model.facts)
  assert np.isnan(batch['x']).any()
  empty = np.isnan(batch['x'])

  def losses(filled):
    x = jnp.where(empty, filled, batch['x']) if filled is not None else batch['x']
    inputs, keys = objective.draw(jax.random.key(1), {'x': x}, None)
    return inputs.counts['numbers'].sum(), objective.loss(params, None, inputs, keys)[0]

  count, loss = losses(None)
  more, _ = losses(0.0)
  assert np.isfinite(loss) and count < more


def test_other_data_and_modes_are_refused(run, tmp_path):
  path = tmp_path / 'numbers.npz'
  np.savez(path, x=np.random.default_rng(0).normal(size=(20, 3)))
  refused('data', lambda: trial('table', **{'data': 'npz', 'data.path': path}))
  with pytest.raises(Exception, match='has no edits: sampling.context'):
    MODES['edit'](of_run(run), run)


def test_a_table_of_ones_own(tmp_path, capsys):
  """Numbers, texts, gaps, times, per cent, no header: two commands, here without a training."""
  path = tmp_path / 'mine.csv'
  rng = np.random.default_rng(0)
  lines = [
    f'{rng.normal():.3f}|{rng.choice(["a", "b c", ""])}|2026-11-30 14:{i:02}:{i:02}|{i}%'
    for i in range(60)
  ]
  path.write_text('\n'.join(lines))
  fields = {'data.path': path, 'data.missing': 'drawn', 'sampling.num_samples': 50}  # the default
  workdir = untrained(trial('table', **FEW | fields), tmp_path / 'mine', deviation=0.0)
  x, (head, *rows) = sample(workdir)
  assert head == ['column1', 'column2', 'column3', 'column4'] and len(rows) == 50
  assert all(re.fullmatch(r'2026-11-30 14:\d\d:\d\d', row[2]) for row in rows)
  assert all(re.fullmatch(r'\d\d?%', row[3]) for row in rows)
  assert {row[1] for row in rows} == {'a', 'b c', ''}
  assert np.isnan(x[:, 1]).sum() == sum(row[1] == '' for row in rows)
  assert 'column2  category, 2: a, b c; ' in capsys.readouterr().out


@pytest.mark.parametrize(
  'text', ['a,b\n1,x\n', 'a,b\n1,x\n1,x\n', 'a\nx\ny\nz\n', 'a\n1.5\n2\n7\n']
)
def test_odd_tables_are_drawn(tmp_path, text):
  path = tmp_path / 'odd.csv'
  path.write_text(text)
  fields = {'data.path': path, 'data.test_fraction': 0.0, 'sampling.num_samples': 4}
  workdir = untrained(
    trial('table', 'transformer', **FEW | fields), tmp_path / 'odd', deviation=0.0
  )
  _, (head, *rows) = sample(workdir)
  assert head == text.split('\n')[0].split(',')
  seen = [{*column} for column in zip(*(line.split(',') for line in text.split()[1:]), strict=True)]
  for i, cells in enumerate(zip(*rows, strict=True)):
    numbers = seen[i] == {'1.5', '2', '7'}
    assert numbers or {*cells} <= seen[i]
