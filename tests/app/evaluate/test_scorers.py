"""The scores of generated digits: while training, in evaluate, in sweeps."""

import functools
import hashlib
import json
import os
import pathlib
import re
import types
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import distance

from diffusion_jax.app.evaluate import mode as evaluate, scorers
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import small_sets, sources
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.metrics import features, fid, manifolds, references
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.judges import digits_judge
from diffusion_jax.metrics.metric import SampleMetric, Score
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, kept, lines_of, of_run, printed_by, refused, smoke, trial
from tests.app.fields import within

LEVEL = 'tests.app.evaluate.test_scorers:level'
FD_PR = {'evaluation.metrics': 'fd,pr', 'evaluation.features': 'pixels'}
FD_PR |= {'sampling.sampler.eta': 0}  # noise of steps doubles the program
QUICK = FD_PR | within('evaluation', num_generated=20)
QUICK |= within('evaluation.fd', num_draws=2)
QUICK |= within('sampling', batch_size=8)


def halves(weights, batch_size):
  """Returns test features and logits: the mean levels of four parts."""

  def extract(pictures):
    x = pictures.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)
    return {'features': x, 'logits': x / 64.0, 'spatial': x[:, :2]}

  identity = {'features': 'halves', 'weights': '1', 'preprocessing': 'means'}
  return features.Extractor(extract, identity)


def level(factor: float = 1.0) -> SampleMetric:
  """Returns a user's metric: the mean grey level."""

  def compute(samples, reference):
    value = factor * float(np.mean(samples['images']))
    return [Score('level', Estimate(value))]

  return SampleMetric({'level': True}, ('images',), compute)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Makes a cache of real features and one more extractor, for this module."""
  home = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(home))
    patch.setitem(features.EXTRACTORS, 'halves', halves)
    arrays = 'features', 'logits', 'spatial'
    patch.setitem(features.ARRAYS, 'halves', arrays)
    yield home


@pytest.fixture(scope='module')
def run(tmp_path_factory, cache):
  """Trains a run that measures its own samples."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  fields = within('training', metrics__every=2, metrics__images=12)
  fields |= within('training', checkpoints__best__number=1, checkpoints__best__by='fd_pixels')
  fields |= within('training', checkpoints__keep=1)
  fields |= within('evaluation', metrics=f'fd,pr,{LEVEL}')
  fields |= within('evaluation.level', factor=2)
  MODES['train'](smoke(**FD_PR | fields), str(workdir))
  return workdir


def run_mode(workdir, changes=None, **fields):
  fields = within('evaluation', **fields)
  quick = {n: x for n, x in QUICK.items() if n != 'evaluation.fd.num_draws'}
  base = quick if 'evaluation.metrics' in fields else QUICK
  MODES['evaluate'](smoke(**base | fields | (changes or {})), str(workdir))


def test_values_are_standardised_by_the_statistics_of_the_run():
  mean, std = (5.0, -1.0), (2.0, 1e-3)
  facts = Facts(ArraySpec((2,), 0, mean, std))
  model: Any = types.SimpleNamespace(config=trial('two_moons'), facts=facts)
  x = np.array([[7.0, -1.002], [1.0, -0.999]])
  found = scorers.make_extractor(model, 'values').extract(x)['features']
  assert_allclose(found, (x - mean) / std)


def result(workdir, *names):
  """Returns the newest results of metrics, all in one; without names the newest of all."""
  content = {}
  for name in names or ('',):
    paths = (workdir / 'evaluation').glob(f'{name}*/result.json')
    one = json.loads(max(paths, key=os.path.getmtime).read_text())
    metrics = {**content.get('metrics', {}), **one['metrics']}
    content |= one | {'metrics': metrics}
  return content


def drawn(workdir):
  return arrays_of(workdir / 'evaluation', 'samples-batch_size=8,num_samples=20', 'drawn')['arr_0']


def real_pixels():
  """Returns the test and the training images as vectors [n, 64] in [0, 1]."""
  splits = map(digits_judge.real, ('test', 'train'))
  return [images.reshape(-1, 64) / 255.0 for images in splits]


def test_training_writes_the_metrics_of_its_samples(run):
  found = [line for line in lines_of(run) if 'fd_pixels' in line]
  assert [line['step'] for line in found] == [2, 4]
  assert 0.0 <= found[0]['recall_pixels'] <= 1.0
  assert 'test_loss' not in found[0]
  assert 0.0 < found[0]['level'] < 510.0
  model = make_model(smoke(**{'sampling.checkpoint': 'best'}), RunFolder.at(run))
  best = min(found, key=lambda line: line['fd_pixels'])
  assert weights.restore(model)[1] == best['step']


@pytest.fixture(scope='module')
def printed(run):
  """Returns what an evaluation of 20 samples prints."""
  return printed_by(run_mode, run)


def test_the_result_is_that_of_the_images_and_the_whole_split(run, printed):
  values = result(run, 'fd', 'pr')['metrics']
  x, y = drawn(run).reshape(-1, 64) / 255.0, real_pixels()[1]
  assert len(x) == 20
  expected = fid.frechet_distance(fid.statistics(x), fid.statistics(y))
  assert_allclose(values['fd_pixels']['value'], expected, rtol=1e-5)
  assert set(values) == {'fd_pixels', 'precision_pixels', 'recall_pixels'}
  protocol = result(run)['protocol']
  assert protocol['samples']['sampling']['num_samples'] == 20
  assert protocol['reference']['pixels']['images'] == 1437
  assert '20 images; settings: digits, checkpoint 4, ddim eta=0, 4 steps' in printed
  assert 'of 1,437 train images of digits' in printed


def test_features_are_kept_and_made_again_for_other_images(run, cache, printed, monkeypatch):
  each = {f'{name}.features': 'halves' for name in ('kid', 'sfd', 'is')}
  each['kid.features'] = 'halves,pixels'
  run_mode(run, metrics='kid,sfd,is', name='kept', **each)
  values = result(run, 'kid-kept', 'sfd-kept', 'is-kept')['metrics']
  assert set(values) == {'kid_halves', 'kid_pixels', 'sfd_halves', 'is_halves'}
  assert [*(run / 'evaluation' / 'drawn').glob('*.pixels.npz')]
  counted = []

  def counting(weights, batch_size):
    extractor = halves(weights, batch_size)
    return extractor._replace(extract=lambda x: counted.append(len(x)) or extractor.extract(x))

  monkeypatch.setitem(features.EXTRACTORS, 'halves', counting)
  run_mode(run, features='halves', metrics='fd')
  assert counted == []
  run_mode(run, {'sampling.seed': 1}, features='halves', metrics='fd')
  assert sum(counted) == 20
  # a damaged file of the cache is made again
  for path in references.folder().iterdir():
    path.write_bytes(b'')
  counted.clear()
  run_mode(run, features='halves', metrics='fd')
  assert sum(counted) >= 1437


def test_each_point_of_a_sweep_is_kept(run):
  sweep = {'evaluation.sweep': 'seed=1,2 num_steps=3'}
  run_mode(run, sweep, name='sweep')
  out = run / 'evaluation'
  points = json.loads((out / 'sweep-sweep' / 'sweep.json').read_text())['points']
  assert [point['point']['seed'] for point in points] == [1, 2]
  one = json.loads((out / 'fd-sweep' / 'seed=1,num_steps=3' / 'result.json').read_text())
  assert one['metrics'].items() <= points[0]['metrics'].items()
  assert points[0]['metrics'] != points[1]['metrics']
  assert one['protocol']['samples']['sampling']['seed'] == 1
  place = run / 'evaluation' / 'drawn'
  name = 'samples-batch_size=8,num_samples=20,num_steps=3,seed={}'
  before = (path := kept(place, name.format(1), '.npz')).stat()
  kept(place, name.format(2), '.npz').unlink()
  with run_folder.hold(place, path.name):  # Another name of the samples would be of no use.
    refused('by process .* or give another --workdir$', run_mode, run, sweep, name='sweep')
  run_mode(run, sweep, name='sweep')
  assert path.stat().st_mtime_ns == before.st_mtime_ns
  again = json.loads((out / 'sweep-sweep' / 'sweep.json').read_text())['points']
  assert again == points


def in_place_of_samples(count):
  """Returns the first random test images with the classes of samples, [count, 64]."""
  labels = {split: small_sets.digits(split).label for split in ('train', 'test')}
  left, rows = np.random.default_rng(0).permutation(360).tolist(), []
  for label in sources.in_proportion(np.bincount(labels['train']), 360):
    rows += [i for i in left if labels['test'][i] == label][:1]
    left = [i for i in left if i not in rows[-1:]]
  return real_pixels()[0][rows[:count]]


def test_the_floor_is_the_score_of_real_images(run, printed, capsys):
  """The floor scores 20 random test images, as many as samples, by the reference."""
  run_mode(run, metrics='fd,pr,memorisation', floor=True)
  values = result(run, 'fd')['floor'] | result(run, 'pr')['floor']
  assert 'floor' not in result(run, 'memorisation')
  found = result(run, 'memorisation')['metrics']
  (count,) = map(int, re.findall(r'than (\d+) held-out', found['closer_pixels']['note']))
  assert 320 < count < 360
  near = distance.cdist(in_place_of_samples(count), real_pixels()[1]).min(axis=1)
  assert_allclose(found['nearest_held_out_pixels']['value'], np.median(near), rtol=1e-5)
  assert set(values) == {'fd_pixels', 'precision_pixels', 'recall_pixels'}
  sets = in_place_of_samples(20), real_pixels()[1]
  means, covariances = zip(*((v.mean(axis=0), np.cov(v, rowvar=False)) for v in sets), strict=True)
  product = np.linalg.eigvals(covariances[0] @ covariances[1]).real
  expected = np.sum((means[0] - means[1]) ** 2)
  expected += np.trace(covariances[0] + covariances[1])
  expected -= 2.0 * np.sum(np.sqrt(np.maximum(product, 0.0)))
  assert_allclose(values['fd_pixels']['value'], expected, rtol=1e-3)
  assert '20 images of the other split in place of 20 samples:' in capsys.readouterr().out


def frechet(x, mean, covariance):
  """Transcribes FID (Heusel et al. 2017, Eq. 6) for features x."""
  ours = np.cov(x, rowvar=False)
  root = np.real(scipy.linalg.sqrtm(ours @ covariance))
  return np.sum((x.mean(axis=0) - mean) ** 2) + np.trace(ours + covariance - 2.0 * root)


@pytest.fixture
def adm(run, printed, tmp_path, monkeypatch, rng):
  """Writes images and statistics, as ADM does, of the features `halves`."""
  monkeypatch.setitem(features.EXTRACTORS, 'inception', halves)
  root = rng.normal(size=(4, 4))
  arrays = {'mu': 30.0 * rng.uniform(size=4), 'sigma': 9.0 * root @ root.T}
  arrays |= {'mu_s': np.ones(2), 'sigma_s': np.diag([2.0, 3.0])}
  images = digits_judge.real('train')[:30]
  np.savez(tmp_path / 'VIRTUAL.npz', arr_0=images, **arrays)
  np.savez(tmp_path / 'edm.npz', mu=arrays['mu'], sigma=arrays['sigma'])
  return types.SimpleNamespace(folder=tmp_path, images=images, **arrays)


def features_of(x):
  return halves('', 1).extract(x)['features'].astype(np.float64)


def test_published_statistics_replace_the_data(run, adm, monkeypatch, capsys):
  """An evaluation by published statistics needs no data."""
  monkeypatch.setattr(scorers.datasets, 'source_of', lambda *args: 1 / 0)
  path = adm.folder / 'edm.npz'
  fields = within('evaluation', metrics='fid', reference=path, num_generated=20)
  MODES['evaluate'](of_run(run, **fields, **within('sampling', batch_size=8)), str(run))
  found = result(run)['metrics']['fid']['value']
  expected = frechet(features_of(drawn(run)), adm.mu, adm.sigma)
  assert_allclose(found, expected, rtol=1e-6)
  protocol = result(run)['protocol']['reference']['inception']
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert protocol['sha256'] == digest
  line = f'against halves (means; weights 1) of edm.npz (sha256 {digest}), statistics of a network'
  assert line in capsys.readouterr().out


def test_the_images_of_adm_are_the_reference_of_other_metrics(run, adm):
  fields = {'pr.features': 'inception', 'reference': adm.folder / 'VIRTUAL.npz'}
  run_mode(run, metrics='fid,sfid,pr', **fields)
  found = result(run, 'fid', 'sfid', 'pr')['metrics']
  values = {name: x['value'] for name, x in found.items()}
  x, y = features_of(drawn(run)), features_of(adm.images)
  assert_allclose(values['fid'], frechet(x, adm.mu, adm.sigma), rtol=1e-6)
  expected = frechet(x[:, :2], adm.mu_s, adm.sigma_s)
  assert_allclose(values['sfid'], expected, rtol=1e-6)
  pair = manifolds.precision_recall(x, y)
  assert values['precision_inception'] == pair.precision.value
  assert values['recall_inception'] == pair.recall.value


def test_statistics_that_do_not_fit_are_refused(run, adm, monkeypatch):
  monkeypatch.setattr(evaluate, 'draw', lambda *args, **kwargs: 1 / 0)
  path, field = adm.folder / 'edm.npz', 'config.evaluation.reference'
  run_mode_of = functools.partial(refused, function=run_mode, workdir=run, reference=path)
  run_mode_of(f'{field}=.* is of one network, .* none: name fid', metrics='pr')
  both = {'metrics': 'fd', 'fd.features': 'halves,pixels'}
  run_mode_of('distances in halves and pixels: name fid, or fd in one', **both)
  message = f'{field}: kid needs images, and .*edm.npz has only mu, sigma'
  run_mode_of(message, metrics='fid,kid', **{'kid.features': 'inception'})
  message = f'{field}: mu of .* has 4 numbers, and the samples have 64 features'
  run_mode_of(message, metrics='fd', features='pixels')


def test_real_examples_in_words():
  data = {'data': {'name': 'digits'}}
  assert evaluate.examples_in_words(data | {'split': 'test'}, 'images') == 'test images of digits'
  assert evaluate.examples_in_words(data | {'split': 'a.npz'}, 'texts') == 'texts of a.npz'


def test_classes_are_of_the_first_model_that_has_some(monkeypatch):
  """In a sweep, a classifier may guide the second point only, whose samples have classes."""
  monkeypatch.setattr(scorers, 'has_classes', lambda model: model == 'guided')
  models: Any = ['plain', 'guided', 'plain']
  assert scorers.with_classes(models) == 'guided'
  assert scorers.with_classes(models[:1]) == 'plain'


def test_samples_have_the_classes_of_the_reference(tmp_path, monkeypatch):
  """Of a split, of a file with labels, else of the training split; statistics have none."""
  label = {split: np.asarray(small_sets.digits(split).label) for split in ('train', 'test')}
  pictures = np.zeros((6, 8, 8, 1), np.uint8)
  mu = {'mu': np.zeros(4), 'sigma': np.eye(4)}
  labels = np.array([3, 3, 3, 9, 3, 3])
  files = {
    'labels': {'images': pictures, 'labels': labels},
    'none': {'images': pictures},
    'statistics': mu,
    'both': mu | {'labels': labels},
    'others': {'images': pictures, 'labels': labels + 1},
  }
  for name, arrays in files.items():
    np.savez(tmp_path / f'{name}.npz', **arrays)

  def found(reference, **fields):
    path = reference if reference in label else tmp_path / f'{reference}.npz'
    config = smoke(**{'evaluation.reference': path}, **fields)
    return scorers.classes_of(make_model(config, RunFolder.at(tmp_path)))

  counts = {split: np.bincount(x, minlength=10) for split, x in label.items()}
  of_file = np.bincount(labels, minlength=10)
  expected = {'train': counts['train'], 'test': counts['test'], 'none': counts['train']}
  for reference, each in (expected | {'labels': of_file, 'both': of_file}).items():
    classes = found(reference)
    assert_array_equal(classes.counts, each)
    assert pathlib.Path(classes.name).stem == {'none': 'train'}.get(reference, reference)
  assert found('statistics') is None and found('others') is None
  assert found('train', **within('conditioning', labels=False, dropout=0.0)) is None
  one_more = label['train'] + 1
  monkeypatch.setattr(scorers, 'labels_of', lambda source: one_more)
  refused(r'reference=train: train has labels 0\.\.10, and .* are 0\.\.9', found, 'train')
