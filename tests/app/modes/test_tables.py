"""A table in a CSV file: drawn given another table, and written."""

import csv
import json
import statistics
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes

from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests import refusals
from tests.app.conftest import arrays_of, kept, of_run, printed_by, trial, untrained
from tests.app.fields import typed

GIVEN = """bmi;note;city;age
21.5;a;Bern;40
30;b;Chur;61
"""


def columns_of(path):
  """Returns {column: its cells} of a CSV file."""
  with path.open(newline='') as file:
    rows = [*csv.DictReader(file)]
  return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """Writes patients with a disease's progress, cities of our own, and sex."""
  data: Any = load_diabetes(scaled=False)
  path = tmp_path_factory.mktemp('table') / 'patients.csv'
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['age', 'bmi', 'progress (a.u.)', 'sex', 'city'])
    for i, ((age, sex, bmi, *_), progress) in enumerate(zip(data.data, data.target, strict=True)):
      writer.writerow([age, bmi, progress, int(sex), ('Aarau', 'Bern', 'Chur')[i % 3]])
  return path


def config_of(table, *x, **changes):
  fields = {'data.x': x} | typed(f"""
    data=csv data.path={table} data.test_fraction=0.2 sampling.checkpoint=latest
    sampling.num_samples=3 sampling.batch_size=3 sampling.num_steps=3 sampling.sampler=ddim
    training.checkpoints.best=None
  """)
  return trial('vectors', **fields | changes)


@pytest.fixture(scope='module')
def run(table, tmp_path_factory):
  given = typed('data.context=age,bmi,city data.categories=city data.label=sex')
  config = config_of(table, 'progress (a.u.)', **given)
  return untrained(config, tmp_path_factory.mktemp('run') / 'run', 0.05)


def test_samples_have_the_names_of_the_table(run, table, tmp_path):
  path = tmp_path / 'given.csv'
  path.write_text(GIVEN)
  MODES['sample'](of_run(run, **typed(f'sampling.context={path} sampling.labels=2,1')), run)
  name = 'samples-context=given,labels=2,1'
  arrays, columns = arrays_of(run, name), columns_of(kept(run / 'samples', name, '.csv'))
  assert_array_equal(arrays['context'], [[40, 21.5, 0, 1, 0], [61, 30, 0, 0, 1]])
  assert columns.pop('sample') == [*'012345'] and columns.pop('row') == [*'000111']
  x = np.float32(columns.pop('progress (a.u.)'))
  assert_array_equal(x, arrays['arr_0'][:, 0])
  assert columns == {
    'age': ['40.0'] * 3 + ['61.0'] * 3,
    'bmi': ['21.5'] * 3 + ['30.0'] * 3,
    'city': ['Bern'] * 3 + ['Chur'] * 3,
    'sex': [*'212121'],
  }


def test_a_summary_has_the_moments_of_the_draws_of_each_row_and_class(run, tmp_path, capsys):
  """Python's statistics of the draws in the other table; a row is what context_row takes."""
  path = tmp_path / 'given.csv'
  path.write_text(GIVEN)
  fields = typed(f'sampling.context={path} sampling.labels=2,1 sampling.num_samples=9')
  MODES['sample'](of_run(run, **fields, **{'sampling.name': 'both'}), run)
  assert 'both-summary.csv: mean, deviation and quantiles' in capsys.readouterr().out
  draws, found = (columns_of(run / 'samples' / f'both{end}.csv') for end in ('', '-summary'))
  assert [*found] == ['row', 'sex', 'column', 'draws', 'mean', 'deviation', '5%', '50%', '95%']
  members = {}
  for row, sex, x in zip(*(draws[n] for n in ('row', 'sex', 'progress (a.u.)')), strict=True):
    members.setdefault((row, sex), []).append(float(x))
  assert [*zip(found['row'], found['sex'], strict=True)] == [*members]
  assert found['draws'] == [*'5454'] and {*found['column']} == {'progress (a.u.)'}
  for i, x in enumerate(members.values()):
    twentieths = statistics.quantiles(x, n=20, method='inclusive')
    expected = statistics.fmean(x), statistics.stdev(x), *(twentieths[k] for k in (0, 9, 18))
    numbers = [float(found[n][i]) for n in ('mean', 'deviation', '5%', '50%', '95%')]
    assert_allclose(numbers, expected, rtol=1e-6)
  fields |= {'sampling.context_row': 1, 'sampling.labels': ('1',), 'sampling.name': 'second'}
  MODES['sample'](of_run(run, **fields), run)
  second = columns_of(run / 'samples' / 'second-summary.csv')
  assert second['row'] == ['1'] and second['draws'] == ['9']
  assert {*columns_of(run / 'samples' / 'second.csv')['row']} == {'1'}


def test_a_column_of_the_data_may_be_called_row(table, tmp_path):
  text = table.read_text().replace('bmi', 'row', 1).replace('progress (a.u.)', 'sample', 1)
  (tmp_path / 'rows.csv').write_text(text)
  config = config_of(tmp_path / 'rows.csv', 'sample', **{'data.context': ('row',)})
  run = untrained(config, tmp_path / 'run', 0.05)
  MODES['sample'](of_run(run, **typed('sampling.num_samples=100 sampling.name=a')), run)
  columns = columns_of(run / 'samples' / 'a.csv')
  assert [*columns] == ['_sample', '_row', 'sample', 'row']
  # 88 held-out rows in turn: the first ones have two draws.
  assert columns['_row'] == [str(i % 88) for i in range(100)]
  summary = columns_of(run / 'samples' / 'a-summary.csv')
  assert summary['draws'] == 12 * ['2'] + 76 * ['1'] and summary['deviation'][12] == ''


def test_samples_of_held_out_rows(run):
  MODES['sample'](of_run(run, **{'sampling.name': 'held_out'}), run)
  assert not (run / 'samples' / 'held_out-summary.csv').exists()  # one draw of each row
  columns = columns_of(run / 'samples' / 'held_out.csv')
  assert columns['row'] == [*'012']
  held_out: Any = datasets.source_of(of_run(run), 'test')
  ages, _, *cities = held_out.context[:3].T
  assert [*map(float, columns['age'])] == ages.tolist()
  assert columns['city'] == np.array(['Aarau', 'Bern', 'Chur'])[np.argmax(cities, 0)].tolist()
  facts = json.loads((run / 'config.json').read_text())['facts']
  assert facts['x']['names'] == ['progress (a.u.)'] and facts['class_names'] == ['1', '2']


def test_the_rows_of_a_context_share_the_samples_of_an_evaluation(run, tmp_path):
  """It draws as many as evaluation.num_generated says, in blocks, each of both classes."""
  path = tmp_path / 'given.csv'
  path.write_text(GIVEN)
  fields = typed(f"""
    evaluation.metrics=moments evaluation.num_generated=9 sampling.context={path}
  """)
  said = printed_by(MODES['evaluate'], of_run(run, **fields), run)
  assert '9 samples of 3 steps are drawn, ' in said and 'largest of 1 numbers, 9 against' in said
  drawn = 'samples-context=given,num_samples=9'
  with np.load(kept(run / 'evaluation/drawn', drawn, '.npz')) as arrays:
    assert len(arrays['arr_0']) == 9
  columns = columns_of(kept(run / 'evaluation/drawn', drawn, '.csv'))
  assert columns['row'] == [*'000001111']
  assert {*columns['sex'][:5]} == {*columns['sex'][5:]} == {'1', '2'}


def test_samples_have_the_class_frequencies_of_a_table(table, tmp_path):
  """A reference may have the column of classes; without it the training split has."""
  labelled = typed('data.context=None data.label=sex conditioning.labels=True')
  workdir, other = RunFolder.at(tmp_path), tmp_path / 'other.csv'

  def classes_of(text):
    other.write_text(text)
    config = config_of(table, 'age', **labelled, **{'evaluation.reference': str(other)})
    return scorers.classes_of(make_model(config, workdir))

  found = classes_of('sex,age\n2.0,40\n1,50\n2,61\n2,62\n')
  assert found.name == str(other) and found.counts.tolist() == [1, 3]
  assert classes_of('age\n40\n50\n').name == 'train'
  assert classes_of('sex,age\n3,40\n1,50\n') is None  # A line says so.


def test_gaps_of_a_table_are_drawn(table, tmp_path, capsys):
  """Samples fill the empty cells of a table of known numbers; a reference may be a table too."""
  known = typed("""
    conditioning.context=None objective.levels=subsets objective.levels.parameters=1
  """)
  run = untrained(config_of(table, 'age', 'bmi', **known), tmp_path / 'run', 0.05)
  path = tmp_path / 'given.csv'
  path.write_text('bmi,age\n25.5,\n,300\n')
  fields = typed(f'sampling.context={path} evaluation.reference={table}')
  MODES['sample'](of_run(run, **fields), run)
  assert "note: 'age' of row 1 of the context is" in capsys.readouterr().out
  columns = columns_of(kept(run / 'samples', 'samples-context=given', '.csv'))
  assert [*columns] == ['sample', 'row', 'age', 'bmi'] and columns['row'] == [*'000111']
  assert columns['bmi'][:3] == ['25.5'] * 3 and columns['age'][3:] == ['300.0'] * 3
  assert len({*columns['age'][:3]}) == len({*columns['bmi'][3:]}) == 3
  source: Any = scorers.reference_source(
    Run.open(of_run(run, **fields), RunFolder.at(run)).model, str(table)
  )
  assert_array_equal(source.x[:, 1], np.float64(columns_of(table)['bmi']))


REFUSED = [
  (
    ('age,bmi,city\n40,20,Basel\n', {}),
    "row 2, column 'city': 'Basel' is not one of its ... Aarau",
  ),
  (('age,city\n40,Bern\n', {}), "given.csv has no column 'bmi', but age, city"),
  (('age,bmi,City\n4,2,Bern\n', {}), "column 'city' (did you mean 'City'?), but age, bmi"),
  (('', {'data.context': ('age', 'city')}), 'shape of context is (4,), and (5'),
  (
    ('', {'data.context': ('bmi', 'age', 'city')}),
    "column 0 of context is 'bmi', and 'age' in this run",
  ),
  (
    ('', {'data.x': ('sex',), 'data.label': ''}),
    "column 0 of x is 'sex', and 'progress (a.u.)' in this run",
  ),
]


@pytest.mark.parametrize('error, given, message', [*refusals.rows(UserError, REFUSED)])
def test_other_tables_are_refused(run, tmp_path, error, given, message):
  path, (text, fields) = tmp_path / 'given.csv', given
  path.write_text(text)
  fields = {'sampling.context': str(path)} if text else fields
  with refusals.one_line(error=error, match=message):
    MODES['sample'](of_run(run, **fields), run)
