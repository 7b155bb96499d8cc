"""Bands: where trainings with other seeds expect the losses of one more."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.run import bands
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.metrics.estimates import prediction_interval
from diffusion_jax.runtime import sessions
from diffusion_jax.runtime.files import read_summed, summed_line, write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.config.test_overrides import FILES
from tests.app.conftest import read, refused, smoke, stored_run
from tests.app.fields import within

LOSSES = 0.21, 0.2, 0.22, 0.19, 0.205  # of five trainings at step 4
FACTS = {'facts.checksum': 'abc', 'facts.examples': 9}
HELD_OUT = within('training', held_out__every=2, log_every=2)


def config(**changes):
  held_out = {} if 'training.held_out' in changes else HELD_OUT
  return smoke(**held_out | changes)


def fields_of(changed):
  return {**changed.flat, **FACTS}


def compare(one, fields, own=()):
  return bands.compare(one, fields, [], dict(own))


@pytest.fixture
def band(tmp_path):
  """Writes the band of five runs of `config`, and returns its path."""
  runs = []
  for seed, loss in enumerate(LOSSES):
    run = RunFolder.at(stored_run(tmp_path / str(seed), config(seed=seed)))
    content = json.loads(run.config.read_text())
    run.config.write_text(json.dumps(content | {'facts': {'checksum': 'abc', 'examples': 9}}))
    more = {'learning_rate': 0.1, 'images_per_second': 9.0, 'loss': 1.0 + loss}
    lines = [{'step': 2, **more}, {'step': 4, **more}, {'step': 4, 'test_loss': loss}]
    lines += [{'step': 6, 'test_loss': 0.1}] * (seed != 3)  # the fourth ended early
    run.metrics.write_text(''.join(map(summed_line, lines)))
    sessions.write_start(run, 0, 10)
    sessions.write_end(run, 4, 4, 60.0 + seed)
    runs.append(run)
  write_summed(tmp_path / bands.FILE, bands.content_of(runs))
  trust.allow([str(tmp_path / bands.FILE)])
  return str(tmp_path / bands.FILE)


def test_a_band_has_what_all_trainings_measured(band):
  content = read_summed(Path(band))
  assert {*content['curves']} == {'loss', 'test_loss'}
  assert content['curves']['test_loss'] == {'steps': [4], 'values': [[*LOSSES]]}
  assert content['processor_seconds'] == [60.0, 61.0, 62.0, 63.0, 64.0]
  assert content['made']['versions']['jax'] and content['made']['processor']
  found = bands.read(band)
  assert found.trainings == 5 and [*found.expected('loss')] == [2, 4]
  assert found.expected('other') == {}
  assert_allclose(found.expected('test_loss')[4], prediction_interval(np.array(LOSSES)))


def test_runs_that_differ_by_more_than_their_seeds_are_no_band(band, tmp_path):
  runs = [RunFolder.at(tmp_path / str(seed)) for seed in range(5)]
  bands.content_of(runs)
  stored_run(tmp_path / '4', config(**{'optimizer.learning_rate': 0.5}))
  refused('learning_rate is 0.008, 0.5 now', bands.content_of, runs)


def test_a_training_that_went_on_after_its_end_is_not_of_a_band(band, tmp_path):
  """Its learning rate decays twice; one that was interrupted decays once."""
  run = RunFolder.at(tmp_path / '4')
  one = config(**{'training.band': band})
  sessions.write_start(run, 2, 10)
  sessions.write_end(run, 3, 4)  # by patience
  runs = [RunFolder.at(tmp_path / str(seed)) for seed in range(5)]
  bands.content_of(runs)
  entries = sessions.read(run)
  assert bands.compare(one, fields_of(one), entries, {}).band is not None
  sessions.write_end(run, 3, 3)
  refused('4 ended at step 3: its learning rate decays again', bands.content_of, runs)
  found = bands.compare(one, fields_of(one), sessions.read(run), {})
  assert found.band is None and 'this training ended at step 3' in found.lines[0]


def test_trainings_of_other_code_are_not_of_a_band(band, tmp_path):
  """The user's own modules that the config names; what else was open is not compared."""
  runs = [RunFolder.at(tmp_path / str(seed)) for seed in range(5)]
  own = {'my_parts': 'a', 'data.csv': 'x'}
  for seed, run in enumerate(runs):
    stored_run(run.path, config(seed=seed, **{'training.log_to': 'my_parts:logger'}))
    sessions.write_start(run, 2, 10, own | {'data.csv': str(seed)})
  content = bands.content_of(runs)
  assert content['code'] == {'my_parts': 'a'}
  write_summed(Path(band), content)
  one = config(**{'training.band': band})
  for code, same in ((own, True), (own | {'my_parts': 'b'}, False), ({}, False)):
    found = compare(one, fields_of(one) | {'facts.checksum': None, 'facts.examples': None}, code)
    assert (found.band is not None) == same, found.lines
  assert found.lines[0].endswith('the code of my_parts has changed')
  sessions.write_start(runs[3], 2, 10, {'my_parts': 'b'})
  refused('3 and ', bands.content_of, runs)


def test_a_curve_that_a_training_lacks_is_left_out(band, tmp_path):
  """Such as a score that was not finite in one training."""
  runs = [RunFolder.at(tmp_path / str(seed)) for seed in range(5)]
  for i in (0, 3):
    text = runs[i].metrics.read_text()
    runs[i].metrics.write_text(text + summed_line({'step': 4, 'fd': 1.0}))
  assert {*bands.content_of(runs)['curves']} == {'loss', 'test_loss'}


def test_a_loss_is_expected_or_said_to_be_outside(band):
  """The mean of LOSSES is 0.205, their deviation sqrt(0.000125): 0.205 -+ 0.0340."""
  found = bands.read(band)
  assert found.note('test_loss', 4, 0.2) == 'expected 0.171 to 0.239'
  assert found.note('test_loss', 4, 0.239) == 'expected 0.171 to 0.239'
  assert found.note('test_loss', 4, 0.34) == '0.1 above 0.171 to 0.239'
  assert found.note('test_loss', 4, 0.121) == '0.05 below 0.171 to 0.239'
  assert found.note('test_loss', 5, 0.2) == found.note('other', 4, 0.2) == ''
  equal = found._replace(curves={'loss': ([1], np.full((1, 5), 0.5))})
  assert equal.note('loss', 1, 0.5) == 'expected 0.5000 to 0.5000'


# Changed fields -> (whether losses are compared, what is said of them).
CHANGES = [
  ({'seed': 7}, True, ''),
  ({'training.verbose': True, 'training.machine.accumulate': 2}, True, ''),
  ({'sampling.num_steps': 3, 'training.checkpoints.every': 3}, True, ''),
  ({'optimizer.learning_rate': 0.5}, True, 'optimizer.learning_rate is 0.008, 0.5 now'),
  ({'training.average.decay': 0.5}, True, 'training.average.decay is 0.999, 0.5 now'),
  ({'network.channels': 4}, True, 'network.channels is 8, 4 now'),
  ({'objective.weight': 'truncated_snr'}, False, 'weight.name is snr, truncated_snr now'),
  ({'parametrization': 'x0'}, False, 'parametrization.name is eps, x0 now'),
  ({'conditioning.dropout': 0.2}, False, 'conditioning.dropout is 0.1, 0.2 now'),
  ({'training.num_steps': 8}, False, 'training.num_steps is 4, 8 now'),
  ({'training.batch_size': 4}, False, 'training.batch_size is 8, 4 now'),
  ({'training.held_out.batches': 3}, False, 'training.held_out.batches is 8, 3 now'),
  ({'training.held_out': None}, False, 'training.held_out.batches is 8, absent now'),
  ({'facts.checksum': 'xyz'}, False, 'facts.checksum is abc, xyz now'),
]


@pytest.mark.parametrize('changes, compares, said', CHANGES)
def test_what_differs_is_said_and_other_losses_are_not_compared(changes, compares, said, band):
  of_data = {name: x for name, x in changes.items() if name in FACTS}
  one = config(**{n: x for n, x in changes.items() if n not in FACTS} | {'training.band': band})
  found = compare(one, fields_of(one) | of_data)
  assert (found.band is not None) == compares
  assert found.lines[0].startswith(f'band: {band}, 5 trainings')
  assert said in found.lines[-1] and len(found.lines) == 1 + (compares and bool(said))
  expected = found.expected(2)
  assert {*expected} == ({'loss', 'test_loss'} if compares else set())


def test_many_differences_are_counted(band):
  more = within('optimizer', b1=0.5, b2=0.5, eps=0.5, weight_decay=0.5, learning_rate=0.5)
  one = config(**more, **{'training.band': band})
  line = compare(one, fields_of(one)).lines[-1]
  assert line.count(' now') == 3 and line.endswith(' and 2 more fields')


def test_training_losses_over_other_steps_are_not_compared(band):
  """A line of them is a mean over training.log_every steps; a held-out loss is of one."""
  one = config(**{'training.log_every': 1, 'training.band': band})
  assert {*compare(one, fields_of(one)).expected(1)} == {'test_loss'}


def test_a_band_may_lack_a_new_field(band):
  path = Path(band)
  content = read_summed(path)
  del content['fields']['optimizer.b2'], content['fields']['conditioning.augment']
  write_summed(path, content)
  one = config(**{'training.band': band})
  assert len(compare(one, fields_of(one)).lines) == 1
  one = config(**{'training.band': band, 'optimizer.b2': 0.5})
  assert 'optimizer.b2 is 0.999, 0.5 now' in compare(one, fields_of(one)).lines[1]


def test_a_file_that_is_no_band_is_refused(band, tmp_path):
  path = Path(band)
  for content, message in (
    (path.read_text().replace('0.21', '0.31', 1), 'put the file back'),
    ('{}', "is not a file of --mode=band: 'curves'"),
    ('[]', 'band.json'),
    ('{"curves": {"loss": {"steps": [1, 2], "values": [[1], []]}}}', 'is not a file of'),
  ):
    path.write_text(content)
    refused(message, bands.read, band)
  path.unlink()
  refused('there is no such file, which --mode=band writes', bands.read, band)


# -- the bands that are shipped --------------------------------------------------

BANDS = bands.installed()
WITH_BAND = [name for name in FILES if read(name).training.band]
# Why a config has no band: a training takes longer than four minutes of a processor,
LONGER = """
  digits_classifier digits_consistency digits_d3pm digits_distilled digits_dit digits_edm
  digits_edm2 digits_flow digits_hvae digits_improved digits_joint digits_latent digits_masked
  digits_meanflow digits_vdm fields gp_sequences inference joint photos rollout shapes_text
  shapes_text_dit two_moons volumes
""".split()
# it needs an accelerator,
ON_ACCELERATORS = [name for name in FILES if name.startswith(('cifar10', 'imagenet', 'images64'))]
# its data come with no package, or are this package's own files, which change,
OTHER_DATA = 'mnist mnist_bits mnist_classifier pictures table text_masked vectors'.split()
# or the seed chooses its validation examples.
BY_SEED = ['regression']


def test_every_config_has_a_band_or_a_reason():
  named = {x.training.band for x in map(read, FILES)}
  assert {*BANDS} == named - {''}
  without = LONGER + ON_ACCELERATORS + OTHER_DATA + BY_SEED
  assert sorted(WITH_BAND + without) == sorted(FILES)
  assert all(read(name).data.validation_fraction for name in BY_SEED)


@pytest.mark.parametrize('name', WITH_BAND)
def test_a_config_is_that_of_its_band(name, tmp_path):
  """A config whose curves would change fails until --mode=band makes its band again."""
  one = read(name)
  file = BANDS[one.training.band]
  band, content = bands.read(one.training.band), read_summed(file)
  assert band.path == f'configs/bands/{name}.json' and file.stat().st_size < 25_000
  now = make_model(one, RunFolder.at(tmp_path)).config
  fields = roles.curve_fields(folder.flat(folder.plain(now)))
  assert {n: x for n, x in band.fields.items() if n not in FACTS} == fields
  assert band.trainings == len(content['processor_seconds']) == 5
  assert content['made']['versions']['jax'] and content['made']['processor']
  last = one.training.num_steps
  for curve in ('loss', 'test_loss'):
    low, high = band.expected(curve)[last]
    assert 0 < low < high < 2 * low


def test_a_changed_config_is_not_that_of_its_band(tmp_path):
  """What the test above compares: another learning rate is noticed."""
  one = read(WITH_BAND[0])
  other = store.with_fields(one, {'optimizer.learning_rate': 0.5})
  assert roles.curve_fields(one.flat) != roles.curve_fields(other.flat)
