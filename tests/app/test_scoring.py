"""Measures of generated digits, on a tiny run."""

import json
import shutil

import numpy as np
import pytest

from diffusion_jax.build import ranges
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features, fid, image_sets
from diffusion_jax.programs import PROGRAMS, evaluate_samples, sample, train
from diffusion_jax.runs import references
from tests.programs.conftest import printed_by, smoke

QUICK = {
  'evaluation.metrics': ('fd,pr',),
  'evaluation.features': 'pixels',
  'evaluation.num_generated': 20,
  'evaluation.num_draws': 2,
  'sampling.batch_size': 8,
}


def halves(weights, batch_size):
  """Features of tests: mean levels of four parts, which are logits as well."""

  def extract(pictures):
    x = pictures.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)
    return {'features': x, 'logits': x / 64.0, 'spatial': x[:, :2]}

  identity = {'features': 'halves', 'weights': '1', 'preprocessing': 'means'}
  return features.Extractor(extract, identity)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A cache of real features, and one more extractor, for this module alone."""
  home = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(home))
    patch.setitem(features.EXTRACTORS, 'halves', halves)
    yield home


@pytest.fixture(scope='module')
def run(tmp_path_factory, cache):
  """A run that measured its own samples while it was trained."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  fields = {
    'training.metrics_every': 2,
    'training.metrics_images': 12,
    'training.keep_checkpoints': 1,
    'training.keep_best': 1,
    'training.keep_best_by': 'fd_pixels',
    'training.more_ema_decays': (0.5,),
    'evaluation.metrics': ('fd,pr',),
    'evaluation.features': 'pixels',
  }
  PROGRAMS['train'](smoke(**fields), str(workdir))
  return workdir


def evaluate(workdir, changes=None, **fields):
  fields = {f'evaluation.{name}': value for name, value in fields.items()}
  config = smoke(**QUICK | fields | (changes or {}))
  PROGRAMS['evaluate'](config, str(workdir))


def result(workdir, name='samples'):
  out = workdir / 'evaluation' / name
  return json.loads((out / 'result.json').read_text())


def drawn(workdir, name='samples'):
  with np.load(workdir / 'evaluation' / name / 'samples.npz') as arrays:
    return arrays['arr_0']


def test_training_writes_the_metrics_of_its_samples(run):
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines if 'fd_pixels' in line]
  assert [line['step'] for line in found] == [2, 4]
  assert 0.0 <= found[0]['recall_pixels'] <= 1.0
  assert 'test_loss' not in found[0]
  config = smoke(**{'sampling.checkpoint': 'best'})
  sample.restore(config, run)
  best = min(found, key=lambda line: line['fd_pixels'])
  assert config.sampling.checkpoint == str(best['step'])


def test_the_best_is_the_highest_where_more_is_better():
  config = smoke(**{
    'evaluation.metrics': ('fid,pr_digits',),
    'training.keep_best_by': 'precision_digits',
  })  # fmt: skip
  test = {'fid': 3.0, 'precision_digits': 0.7}
  assert train.with_criterion(config, test) == test | {'criterion': -0.7}
  assert train.with_criterion(config, {}) is None


@pytest.fixture(scope='module')
def printed(run):
  """What an evaluation of 20 samples has printed."""
  return printed_by(evaluate, run)


def test_the_result_is_that_of_the_images_and_the_whole_split(run, printed):
  values = result(run)['metrics']
  x, y = (
    v.reshape(len(v), -1) / 255.0 for v in (drawn(run), digits.real('train'))
  )
  assert len(x) == 20
  expected = fid.frechet_distance(fid.statistics(x), fid.statistics(y))
  np.testing.assert_allclose(values['fd_pixels']['value'], expected, rtol=1e-5)
  assert set(values) == {'fd_pixels', 'precision_pixels', 'recall_pixels'}
  protocol = result(run)['protocol']
  assert protocol['samples']['sampling']['num_samples'] == 20
  assert protocol['reference']['pixels']['images'] == 1437
  assert '20 images of digits, checkpoint 4, ddim, 4 steps, guid' in printed
  assert 'of 1,437 train images of digits' in printed


def test_interrupted_in_two_parts_it_is_the_uninterrupted_one(
  run, printed, monkeypatch
):
  """The process ends after the second of three batches."""
  written = []

  def write(path, *args):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(path)
    return write_part(path, *args)

  write_part = sample.write_part
  monkeypatch.setattr(sample, 'write_part', write)
  with pytest.raises(KeyboardInterrupt):
    evaluate(run, name='parts')
  monkeypatch.undo()
  stamps = [path.stat().st_mtime_ns for path in written]
  assert len(stamps) == 2
  evaluate(run, name='parts')
  np.testing.assert_array_equal(drawn(run, 'samples-parts'), drawn(run))
  metrics = result(run, 'samples-parts')['metrics']
  assert metrics == result(run)['metrics']


def test_two_devices_make_the_images_of_one(run, printed):
  evaluate(run, {'training.mesh': (2, 1)}, name='spread')
  one, two = drawn(run), drawn(run, 'samples-spread')
  assert np.abs(one.astype(int) - two).max() <= 255 / 16  # a level of rounding
  assert np.mean(one != two) < 0.01


def test_features_are_kept_and_made_again_for_other_images(
  run, cache, printed, monkeypatch
):
  out = run / 'evaluation'
  for name in ('kept', 'other'):
    shutil.copytree(out / 'samples', out / f'samples-{name}')
  evaluate(run, metrics=('kid_halves,sfd_halves,is_halves',), name='kept')
  values = result(run, 'samples-kept')['metrics']
  assert set(values) == {'kid_halves', 'sfd_halves', 'is_halves'}
  counted = []

  def counting(weights, batch_size):
    extractor = halves(weights, batch_size)
    return extractor._replace(
      extract=lambda x: counted.append(len(x)) or extractor.extract(x)
    )

  monkeypatch.setitem(features.EXTRACTORS, 'halves', counting)
  evaluate(run, metrics=('fd_halves',), name='kept')
  assert not counted  # neither of real images nor of these
  evaluate(run, metrics=('fd_halves',), name='other')
  assert sum(counted) == 20
  # a damaged file of the cache is made again
  for path in references.folder().iterdir():
    path.write_bytes(b'')
  counted.clear()
  evaluate(run, metrics=('fd_halves',), name='kept')
  assert sum(counted) >= 1437


def test_a_sweep_is_a_table_and_each_point_is_kept(run, capsys):
  sweep = {
    'evaluation.sweep.num_steps': (2, 3),
    'evaluation.sweep.ema_decay': (0.5,),
  }
  evaluate(run, sweep, name='sweep')
  out = run / 'evaluation' / 'samples-sweep'
  points = json.loads((out / 'sweep.json').read_text())['points']
  assert [point['point'] for point in points] == [
    {'num_steps': 2, 'ema_decay': 0.5},
    {'num_steps': 3, 'ema_decay': 0.5},
  ]
  one = result(run, 'samples-sweep/num_steps=2,ema_decay=0.5')
  assert one['metrics'] == points[0]['metrics']
  assert points[0]['metrics'] != points[1]['metrics']
  assert one['protocol']['samples']['sampling']['num_steps'] == 2
  assert (out / 'sweep.png').stat().st_size > 0
  printed = capsys.readouterr().out.splitlines()
  assert any(line.startswith('num_steps=3,ema_decay=0.5 ') for line in printed)
  before = (out / 'num_steps=2,ema_decay=0.5' / 'samples.npz').stat()
  (out / 'num_steps=3,ema_decay=0.5' / 'samples.npz').unlink()
  evaluate(run, sweep, name='sweep')
  after = (out / 'num_steps=2,ema_decay=0.5' / 'samples.npz').stat()
  assert before.st_mtime_ns == after.st_mtime_ns
  again = json.loads((out / 'sweep.json').read_text())['points']
  assert again == points


def test_samplers_of_a_sweep_lose_what_only_others_take():
  config = smoke(**{
    'evaluation.sweep.sampler': ('ddim,ancestral',),
    'evaluation.sweep.guidance_scale': (1.0, 2.0),
    'sampling.sampler': 'ddim',
    'sampling.eta': 0.5,
  })  # fmt: skip
  points = list(evaluate_samples.sweep(config))
  assert [tuple(changes.values()) for changes, _ in points] == [
    ('ddim', 1.0), ('ddim', 2.0), ('ancestral', 1.0), ('ancestral', 2.0),
  ]  # fmt: skip
  assert [point.sampling.eta for _, point in points] == [0.5, 0.5, None, None]


def test_memorisation_is_of_the_other_split(run, printed):
  evaluate(run, metrics=('memorisation',))
  values = result(run)['metrics']
  assert set(values) == {
    'closer_pixels',
    'copied_pixels',
    'nearest_pixels',
    'nearest_held_out_pixels',
  }
  test, train_split = (
    digits.real(split).reshape(-1, 64) / 255.0 for split in ('test', 'train')
  )
  apart = np.linalg.norm(test[:, None] - train_split[None], axis=-1)
  np.testing.assert_allclose(
    values['nearest_held_out_pixels']['value'],
    np.median(apart.min(axis=1)),
    rtol=1e-5,
  )


def test_mistakes_are_one_clear_line(run, printed):
  with pytest.raises(UserError, match='accuracy needs a classifier of these'):
    evaluate(run, metrics=('accuracy',))
  with pytest.raises(UserError, match="features='x' is not one of inc"):
    evaluate(run, features='x')
  with pytest.raises(
    UserError, match=r"'fid2' .*is not one of elbo, .*fid, sfid"
  ):
    evaluate(run, metrics=('fid2',))
  with pytest.raises(UserError, match="reference='x' is not one of train, te"):
    evaluate(run, reference='x')
  with pytest.raises(UserError, match='config.evaluation.name. is not|Delete'):
    evaluate(run, {'sampling.seed': 7})
  drawn_before = drawn(run)
  with pytest.raises(UserError, match='need a file of weights: classify_image'):
    evaluate(run, metrics=('fid',), name='fid')
  assert not (run / 'evaluation' / 'samples-fid' / 'samples.npz').exists()
  np.testing.assert_array_equal(drawn_before, drawn(run))
  with pytest.raises(UserError, match='is_pixels needs|is needs logits of a'):
    evaluate(run, metrics=('is',))
  with pytest.raises(UserError, match=r'sweep.num_steps\[0\]=0 is not in'):
    ranges.check(smoke(**{'evaluation.sweep.num_steps': (0,)}))
  fields = {'training.metrics_every': 1, 'evaluation.metrics': ('elbo',)}
  with pytest.raises(UserError, match='name a metric of them in config.eval'):
    train.make_measure(smoke(**fields), None)
  fields['evaluation.metrics'] = ('fd',)
  fields['evaluation.features'] = 'pixels'
  fields |= {'training.keep_best': 1, 'training.keep_best_by': 'fid'}
  with pytest.raises(UserError, match="'fid' is not one of test_loss, fd_pix"):
    train.make_measure(smoke(**fields), None)


def test_a_classifier_makes_no_images():
  config = smoke(**{'objective.name': 'classifier'})
  with pytest.raises(UserError, match='makes no images to measure by fid'):
    evaluate_samples.check(config, ('fid',))


def test_features_and_labels_are_of_the_same_images(tmp_path):
  """Computed, and read again."""
  pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
  labels = np.array([3, 1, 4, 1, 5])
  found = image_sets.from_array('made', pictures, labels=labels)
  extractor, path = halves('', 2), tmp_path / 'halves.npz'
  for _ in range(2):
    known = evaluate_samples.describe(smoke(), found, extractor, path, {})
    expected = extractor.extract(pictures)['features']
    np.testing.assert_array_equal(known.found['features'], expected)
    np.testing.assert_array_equal(known.labels, labels)
    found = found._replace(batches=None)  # not read again


def test_accuracy_needs_labels():
  config = smoke(**{'conditioning.labels': False})
  with pytest.raises(UserError, match='accuracy needs labels, which this run'):
    evaluate_samples.check_needs(config, 'halves', {'accuracy'})
