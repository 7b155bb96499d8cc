"""The command as typed, on files as other projects write them."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.data import image_sets
from diffusion_jax.data.drawings import write_png
from diffusion_jax.metrics import compare, fid, mmd
from diffusion_jax.metrics.manifolds import precision_recall
from tests import as_main, refusals


@pytest.fixture
def files(tmp_path, rng):
  """Writes samples, and a reference as ADM's: some images, all's statistics."""
  samples, reference = (rng.integers(0, 256, (n, 3, 3, 1)).astype(np.uint8) for n in (60, 50))
  mean, covariance = rng.uniform(size=9), np.eye(9)
  paths = tmp_path / 'samples.npz', tmp_path / 'VIRTUAL.npz'
  np.savez(paths[0], arr_0=samples)
  np.savez(paths[1], arr_0=reference, mu=mean, sigma=covariance)
  return samples, reference, fid.Statistics(mean, covariance), paths


def run(capsys, *args):
  compare.main(list(map(str, args)))
  return capsys.readouterr().out


def test_the_reference_of_adm(files, capsys, tmp_path):
  samples, reference, statistics, paths = files
  written = tmp_path / 'result.json'
  out = run(capsys, *paths, '--features=pixels', f'--json={written}')
  found = json.loads(written.read_text())
  x, y = (v.reshape(len(v), -1) / 255.0 for v in (samples, reference))
  expected = fid.frechet_distance(fid.statistics(x), statistics)
  assert_allclose(found['metrics']['fd']['value'], expected)
  assert found['metrics']['fd']['error'] > 0.0
  assert_allclose(found['metrics']['recall']['value'], precision_recall(x, y).recall.value)
  # neither logits nor spatial features, labels nor held-out images
  assert set(found['metrics']) == {*'fd kid precision recall density coverage cmmd'.split()}
  assert found['protocol']['features'] == 'pixels'
  assert found['protocol']['num_samples'] == 60
  assert out.startswith('fd ') and 'num_reference 50' in out


def test_the_reference_of_edm_has_statistics_alone(files, capsys, tmp_path):
  samples, _, statistics, paths = files
  path = tmp_path / 'edm.npz'
  np.savez(path, mu=statistics.mean, sigma=statistics.covariance)
  first, *others = run(capsys, paths[0], path, '--features=pixels', '--bootstrap=0').splitlines()
  assert first.split()[0] == 'fd' and others[-1].startswith('samples ')
  assert 'not computed: kid needs images of the reference' in others
  with pytest.raises(ValueError, match='kid needs images of the reference'):
    run(capsys, paths[0], path, '--features=pixels', '--metrics=kid')


def test_folders_and_statistics_of_ones_own(files, capsys, tmp_path):
  samples, reference, _, paths = files
  for i, picture in enumerate(reference):
    (tmp_path / 'images').mkdir(exist_ok=True)
    write_png(tmp_path / 'images' / f'{i:03d}.png', picture)
  own = tmp_path / 'own.npz'
  options = '--features=pixels', '--metrics=fd', '--bootstrap=0'
  out = run(capsys, paths[0], tmp_path / 'images', *options, f'--statistics={own}')
  assert out.splitlines()[0] == run(capsys, paths[0], own, *options).splitlines()[0]
  x = reference.reshape(50, -1) / 255.0
  assert_allclose(fid.given(image_sets.read(own).arrays).mean, x.mean(axis=0), rtol=1e-5)
  with np.load(own) as stored:
    content = dict(stored)
  protocol = json.loads(str(content.pop('protocol')))
  assert protocol['num_reference'] == 50
  np.savez(own, protocol=json.dumps(protocol | {'weights': 'x'}), **content)
  with pytest.raises(ValueError, match="with weights 'x', and the other set with 'none'"):
    run(capsys, paths[0], own, *options)


LEAST = {'fd': 2, 'kid': 2, 'is': 10, 'pr': 4}
ONE_SAMPLE = [f'{name} needs {n} images of the samples: there are 1' for name, n in LEAST.items()]
FEW = [
  'is needs 10 images of the samples: there are 2',
  'pr needs 4 images of the samples and 4 of the reference: there are 2 and 3',
  'dc needs 6 images of the reference: there are 3',
]


@pytest.mark.parametrize(
  'sizes, computed, reasons',
  [
    ((1, 40), 'density coverage cmmd', ONE_SAMPLE),
    ((2, 3), 'fd kid cmmd', FEW),
    ((10, 6), 'fd kid is precision recall density coverage cmmd', []),
  ],
)
def test_small_sets(tmp_path, capsys, rng, sizes, computed, reasons):
  paths = [tmp_path / f'{name}.npz' for name in ('samples', 'reference')]
  for path, size in zip(paths, sizes, strict=True):
    np.savez(path, arr_0=rng.integers(0, 256, (size, 8, 8, 1), np.uint8))
  lines = run(capsys, *paths, '--features=digits').splitlines()
  others = {
    'sfd needs spatial features of the samples, as inception has',
    'accuracy needs labels of the samples',
    'memorisation needs held-out images, 1 or more',
  }
  count = len(computed.split())
  assert [line.split()[0] for line in lines[:count]] == computed.split()
  assert not any('nan' in line for line in lines)
  assert {*reasons, *others} == {line.removeprefix('not computed: ') for line in lines[count:-1]}


def test_a_metric_that_was_asked_for_is_an_error(files, capsys, tmp_path):
  samples, _, _, paths = files
  np.savez(tmp_path / 'few.npz', arr_0=samples[:3])
  with pytest.raises(ValueError, match='pr needs 4 images of the samples: th'):
    run(
      capsys,
      tmp_path / 'few.npz',
      paths[0],
      '--features=pixels',
      '--metrics=pr,fd',
      f'--json={tmp_path / "r.json"}',
    )
  assert capsys.readouterr().out.startswith('fd ')
  assert set(json.loads((tmp_path / 'r.json').read_text())['metrics']) == {'fd'}


def test_classes_of_other_frequencies_are_said(capsys, tmp_path, rng):
  """Both kinds of names tell columns; random labels of equal frequencies tell nothing."""
  share = rng.uniform(size=(2, 900)) < 0.1
  for name, kind, labels in (
    ('real', 'label', share[0]),
    ('random', 'labels', share[1]),
    ('turn', 'labels', np.arange(900) % 2),
    ('none', 'label', None),
  ):
    arrays = {} if labels is None else {kind: labels.astype(int)}
    np.savez(tmp_path / f'{name}.npz', features=rng.normal(size=(900, 2)), **arrays)
  for name, is_said in (('random', False), ('turn', True), ('none', False)):
    out = run(capsys, tmp_path / f'{name}.npz', tmp_path / 'real.npz', '--metrics=fd')
    assert ('note: the class frequencies of the samples differ' in out) == is_said


def test_a_metric_of_ones_own(files, capsys, tmp_path, monkeypatch):
  samples, _, _, paths = files
  (tmp_path / 'my_brightness.py').write_text(
    'from diffusion_jax.metrics.estimates import mean\n'
    'from diffusion_jax.metrics.metric import SampleMetric, Score\n'
    'def bright(threshold: float = 100.0):\n'
    '  def compute(samples, reference):\n'
    "    over = samples['images'].mean((1, 2, 3)) > threshold\n"
    "    return [Score('bright', mean(over == samples['wanted']))]\n"
    "  return SampleMetric({'bright': True}, ('images', 'wanted'), compute)\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  wanted = np.arange(60) % 2 == 0
  np.savez(tmp_path / 'mine.npz', arr_0=samples, wanted=wanted)
  out = run(capsys, tmp_path / 'mine.npz', paths[1], '--metrics=my_brightness:bright')
  expected = np.mean((samples.mean((1, 2, 3)) > 100.0) == wanted)
  assert float(out.split()[1]) == pytest.approx(expected, rel=1e-4)


def test_copies_of_the_reference_are_shown(files, capsys, tmp_path):
  samples, reference, _, paths = files
  copied = tmp_path / 'copied.npz'
  np.savez(copied, arr_0=reference[::-1][:30])
  sheet = tmp_path / 'pairs.png'
  options = '--features=pixels', '--metrics=memorisation', f'--sheet={sheet}'
  out = run(capsys, copied, paths[1], f'--held_out={paths[0]}', *options)
  lines = {line.split()[0]: line.split()[1] for line in out.splitlines()}
  assert lines['closer'] == lines['copied'] == '1'
  assert float(lines['nearest']) == 0.0 < float(lines['nearest_held_out'])
  assert sheet.stat().st_size > 0


def test_files_of_features_need_no_extractor(capsys, tmp_path, rng):
  x, y = rng.standard_normal((40, 50)), rng.standard_normal((30, 50))
  for name, values in (('x', x), ('y', y)):
    np.savez(tmp_path / name, features=values)
  out = run(capsys, tmp_path / 'x.npz', tmp_path / 'y.npz', '--metrics=fd')
  expected = fid.frechet_distance(fid.statistics(x), fid.statistics(y))
  assert float(out.split()[1]) == pytest.approx(expected, rel=1e-4)
  assert 'no more than the 50 features: the covariance is singular' in out


def command(arguments):
  compare.main(arguments.split())


WRONG = [
  (lambda: command('a'), 'arguments are required: reference'),
  (lambda: command('a b --feature=x'), 'unrecognized arguments: --feature=x'),
  (lambda: command('a b --bootstrap=-1'), 'give an integer of at least 0'),
  (lambda: command('a b --batch_size=0'), 'give an integer of at least 1'),
  (lambda: command('a b'), 'file or folder a not found'),
  (
    lambda: command('samples.npz uneven.npz --features=pixels'),
    'uneven.npz: mu is [3] and sigma [2, 2]',
  ),
  (
    lambda: command('samples.npz large.npz --features=pixels'),
    '32 numbers, and the samples have 9',
  ),
  (lambda: command('samples.npz VIRTUAL.npz --features=digits'), 'digits must be [N, 8, 8, 1]'),
  (
    lambda: command('samples.npz VIRTUAL.npz --features=pixels --metrics=x'),
    "metric 'x' is not one of fd, sfd",
  ),
  (lambda: command('samples.npz VIRTUAL.npz --metrics=json:three'), "no attribute 'three'"),
  (lambda: command('samples.npz VIRTUAL.npz --metrics=none:three'), "No module named 'none'"),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows((ValueError, OSError), WRONG)])
def test_other_commands_are_refused(error, call, message, files, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.savez('uneven.npz', mu=np.zeros(3), sigma=np.eye(2))
  np.savez('large.npz', mu=np.zeros(32), sigma=np.eye(32))
  with refusals.one_line(error=error, match=message):
    call()


def test_a_mistake_ends_the_command_with_2(files):
  found = as_main.run(compare, *files[-1])
  assert found.returncode == 2 and found.stderr.count('\n') == 1
  assert 'choose --features, one of inception, din' in found.stderr


def test_values_are_standardised_by_the_reference(files, capsys, tmp_path):
  """The values of pictures are their levels; these metrics need no features."""
  samples, reference, _, paths = files
  written, own = tmp_path / 'result.json', tmp_path / 'own.npz'
  np.savez(own, arr_0=reference)
  options = f'--json={written}', '--bootstrap=0'
  run(capsys, paths[0], own, '--features=values', '--metrics=fd', *options)
  found = json.loads(written.read_text())
  mean, std = reference.mean(axis=(0, 1, 2)), reference.std(axis=(0, 1, 2))
  x, y = (((a - mean) / std).reshape(len(a), -1) for a in (samples, reference))
  expected = fid.frechet_distance(fid.statistics(x), fid.statistics(y))
  assert_allclose(found['metrics']['fd']['value'], expected)
  assert found['protocol']['preprocessing'].startswith('standardised by ')

  run(capsys, paths[0], own, '--metrics=sliced_w2,energy,moments', *options)
  found = json.loads(written.read_text())['metrics']
  assert {*found} == {*'sliced_w2 energy moments_mean moments_std moments_correlation'.split()}
  assert_allclose(found['energy']['value'], mmd.energy_distance(x, y).value)
