"""--mode=evaluate on a tiny run of the real digits."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.core.keys import stream
from diffusion_jax.data import sources
from diffusion_jax.data.images import scale
from diffusion_jax.errors import UserError
from diffusion_jax.families.family import Metric
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.programs import evaluate as evaluation
from diffusion_jax.runs import run_folder
from tests.programs.conftest import printed_by, smoke

QUICK = {
  'evaluation.num_images': 12,
  'evaluation.batch_size': 8,
  'evaluation.num_steps': 5,
}


def evaluate(workdir, **fields):
  fields = {f'evaluation.{name}': value for name, value in fields.items()}
  PROGRAMS['evaluate'](smoke(**QUICK | fields), str(workdir))


def result(workdir, name):
  path = workdir / 'evaluation' / name / 'result.json'
  return json.loads(path.read_text())


def parts(workdir, name):
  folder = workdir / 'evaluation' / name / 'parts'
  return {path.name: dict(np.load(path)) for path in sorted(folder.iterdir())}


@pytest.fixture(scope='module')
def printed(run):
  """What an evaluation of the bound has printed."""
  return printed_by(evaluate, run)


def test_the_parts_of_the_bound_add_up(run, printed):
  found = result(run, 'elbo-test')
  assert found['images'] == 12 and found['split'] == 'test'
  total = found['prior'] + found['diffusion'] + found['reconstruction']
  np.testing.assert_allclose(found['bits_per_dim'], total, rtol=1e-5)
  np.testing.assert_allclose(
    sum(found['terms']) + found['prior'], total, rtol=1e-5
  )
  assert len(found['terms']) == len(found['rate']) == 5
  np.testing.assert_allclose(found['rate'][0], found['prior'])
  np.testing.assert_allclose(
    found['rate'][-1] + found['terms'][0], total, rtol=1e-5
  )
  assert f'elbo: {found["bits_per_dim"]:.4f} +- ' in printed
  assert 'L_T ' in printed and 'L_0 ' in printed
  for name in ('terms', 'rate_distortion'):
    with Image.open(run / 'evaluation' / 'elbo-test' / f'{name}.png') as image:
      assert image.size[0] > 300


def test_an_interrupted_evaluation_continues(run, printed):
  evaluated = run / 'evaluation' / 'elbo-test'
  out = shutil.copytree(evaluated, evaluated.with_name('elbo-test-again'))
  before = parts(run, 'elbo-test-again')
  assert list(before) == ['00000000.npz', '00000008.npz']
  (out / 'parts' / '00000008.npz').unlink()
  first = out / 'parts' / '00000000.npz'
  stamp = first.stat().st_mtime_ns
  evaluate(run, name='again')
  assert first.stat().st_mtime_ns == stamp  # not measured again
  after = parts(run, 'elbo-test-again')
  for name, arrays in before.items():
    for key, values in arrays.items():
      np.testing.assert_array_equal(values, after[name][key])


def test_another_evaluation_needs_another_name(run, printed):
  with pytest.raises(UserError, match='num_steps is 5, 4 now. Delete it, or'):
    evaluate(run, num_steps=4)
  config = smoke(**QUICK, **{'sampling.variance': 'fixed_large'})
  with pytest.raises(UserError, match='variance is fixed_small, fixed_large'):
    PROGRAMS['evaluate'](config, str(run))


def test_an_image_has_one_bound_in_any_batch_on_any_devices(run, printed):
  """Of 8 on one device, and of 5 on eight."""
  config = smoke(**QUICK, **{'training.mesh': (8, 1)})
  config.evaluation.update(name='spread', batch_size=5)
  PROGRAMS['evaluate'](config, str(run))
  totals = [
    np.concatenate([p['total'] for p in parts(run, name).values()])
    for name in ('elbo-test', 'elbo-test-spread')
  ]
  assert totals[0].shape == (12,)
  np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


def test_independent_pixels_literally(run):
  evaluate(run, metrics=('independent_pixels',))
  train, test = sources.digits('train').images, sources.digits('test').images
  bits = []
  for image in test[:12]:
    for (i, j, _), level in np.ndenumerate(image):
      seen = np.sum(train[:, i, j, 0] == level)
      bits.append(-np.log2((seen + 1) / (len(train) + 17)))
  found = result(run, 'independent_pixels-test')['bits_per_dim']
  np.testing.assert_allclose(found, np.mean(bits), rtol=1e-5)


def test_the_ode_and_a_list_of_metrics_as_typed(run, capsys):
  three = {'num_images': 3, 'name': 'three'}
  evaluate(run, metrics=('ode,independent_pixels',), tolerance=0.1, **three)
  assert result(run, 'ode-test-three')['images'] == 3
  printed = capsys.readouterr().out
  assert 'ode: ' in printed and 'independent_pixels: ' in printed
  evaluate(
    run, metrics=('ode',), tolerance=0.1, dequantization='gaussian',
    num_images=3, name='noisy',
  )  # fmt: skip
  found = result(run, 'ode-test-noisy')['bits_per_dim']
  # two bounds of the same, in the same units: an offset of 3 bits is not lost
  assert abs(found - result(run, 'ode-test-three')['bits_per_dim']) < 2.5


def test_a_measure_sees_the_labels_and_the_image_of_the_condition(monkeypatch):
  """cond['image'] is drawn with a key of the seed and the image's index."""
  config = smoke(**{'conditioning.image': 'inpaint'})
  make = build.build_image_condition(config)
  total = lambda x: x.sum(axis=(1, 2, 3))

  def measure(params, keys, x0, cond):
    return {'label': cond['label'], 'image': total(cond['image'])}

  metrics = {'elbo': Metric(lambda config: measure, None)}
  spied = families.of(config)._replace(metrics=metrics)
  monkeypatch.setattr(families, 'of', lambda config: spied)
  source, index = sources.digits('test'), np.array([3, 8, 5])
  pictures, cond = evaluation.read(config, source, index)
  measured = evaluation.make_measure('elbo', config, build.build_mesh(config))
  found = measured({}, index, pictures, cond)
  x0, labels = source.read(index)
  np.testing.assert_array_equal(found['label'], labels)
  root = stream(config.evaluation.seed, 'evaluation_images')
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
  images = jax.jit(make)(keys, scale(x0, 17))
  np.testing.assert_allclose(found['image'], total(images), rtol=1e-5)


def test_the_overrides_of_the_training_may_be_repeated(run):
  same = {'data.image_shape': (8, 8, 1), 'network.channels': 8}
  run_folder.check_overrides('evaluate', same, str(run))
  with pytest.raises(UserError, match='config.network.channels cannot change'):
    run_folder.check_overrides(
      'sample', same | {'network.channels': 4}, str(run)
    )


def test_mistakes_are_one_clear_line(run, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="'fid2' .*is not one of elbo, ode, ind"):
    evaluate(run, metrics=('fid2',))
  with pytest.raises(UserError, match='metrics is empty: give elbo or ode'):
    evaluate(run, metrics=())
  with pytest.raises(UserError, match='there is no run in'):
    evaluate(tmp_path / 'none')
  with pytest.raises(UserError, match="split 'val' is not one of"):
    evaluate(run, split='val')
  with pytest.raises(UserError, match="decoder='normal' is not one of gauss"):
    evaluate(run, decoder='normal', name='x')
  with pytest.raises(UserError, match="dequantization='u' is not one of unif"):
    evaluate(run, metrics=('ode',), dequantization='u', name='x')
  with pytest.raises(UserError, match='config.evaluation: steps is 9: of 5'):
    evaluate(run, random_steps=9, name='x')
  with pytest.raises(UserError, match='evaluation.num_probes=0 is not in'):
    evaluate(run, metrics=('ode',), num_probes=0, name='x')
  with monkeypatch.context() as patch:  # as after too many steps
    lost = lambda key, denoise, schedule, x, **_: (jnp.full(len(x), jnp.nan), x)
    patch.setattr(dj, 'log_likelihood', lost)
    with pytest.raises(UserError, match='ode is nan on images 0..2: try a lar'):
      evaluate(run, metrics=('ode',), num_images=3, name='x2')
  assert not list((run / 'evaluation' / 'ode-test-x2' / 'parts').iterdir())
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(UserError, match='there is no checkpoint in'):
    evaluate(copy)
  shutil.copytree(run, tmp_path / 'other')
  path = tmp_path / 'other' / 'config.json'
  stored = json.loads(path.read_text())
  stored['data']['image_shape'] = [16, 16, 1]
  path.write_text(json.dumps(stored))
  with pytest.raises(UserError, match='digits needs --config.data.image_shape'):
    evaluate(tmp_path / 'other')
