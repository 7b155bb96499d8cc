"""Guided sampling by config, and runs of classifiers."""

import itertools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from configs import digits_classifier
from diffusion_jax import build, families
from diffusion_jax.build import guidance
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, train
from diffusion_jax.programs import sample as sampling
from diffusion_jax.runs import guidance_runs, run_folder
from tests.programs.conftest import smoke, untrained

LABELS = jnp.array([3, 8])
LEVEL = build.build_schedule(smoke())(jnp.array(0.4))
X = 0.5 * jax.random.normal(jax.random.key(5), (2, 8, 8, 1))


def classifier_smoke(**changes):
  config = digits_classifier.get_config('smoke')
  config.training.mesh = (1, 1)
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.update_from_flattened_dict(changes)
  return config


def loud(config, seed):
  """Parameters away from the initial zeros, so that everything shows."""
  shapes = families.abstract_params(config)
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(seed)
  return tree.unflatten(
    [jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype) for x in leaves]
  )


def network(config, params):
  """(x, level, cond) -> what the Flax module says."""
  apply = jax.jit(build.build_network(config).apply)
  noise = build.build_noise_input(config)
  return lambda x, level, cond: apply(
    {'params': params['network']}, x, jnp.broadcast_to(noise(level), 2), cond
  )


def x0_of(eps, level=LEVEL, x=X):
  return (x - level.sigma * eps) / level.alpha


def guided_x0(config, params, cond, runs=None):
  runs = runs or {}

  @jax.jit
  def ask(params, others):
    guiding = {n: run._replace(params=others[n]) for n, run in runs.items()}
    return build.build_denoiser(config, params, cond, guiding=guiding)(
      X, LEVEL
    ).x0

  return ask(params, {name: run.params for name, run in runs.items()})


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope='module')
def loud_run():
  """(config, parameters, x0 with the label, x0 without), all by hand."""
  config = smoke()
  params = loud(config, 0)
  ask = network(config, params)
  cond = x0_of(ask(X, LEVEL, {'label': LABELS}))
  uncond, same = (
    x0_of(ask(X, LEVEL, {'label': labels, 'drop': jnp.ones(2, bool)}))
    for labels in (LABELS, LABELS - 1)
  )
  np.testing.assert_array_equal(uncond, same)  # the labels do not matter
  return config, params, cond, uncond


def test_guidance_without_a_classifier_by_hand(loud_run):
  config, params, cond, uncond = loud_run
  assert np.abs(cond - uncond).max() > 0.01
  for fields, expected in [
    ({'clip': True}, np.clip(cond, -1.0, 1.0)),
    ({'guidance_scale': 0.0}, uncond),
    (
      {'guidance_scale': 3.0, 'clip': True},
      np.clip(uncond + 3.0 * (cond - uncond), -1.0, 1.0),
    ),
    ({'guidance_scale': 3.0, 'guidance_max': 0.1}, cond),
    ({'guidance_scale': 3.0, 'guidance_min': 1e3}, cond),
  ]:
    fields = {f'sampling.{name}': value for name, value in fields.items()}
    config = smoke(**{'sampling.clip': False} | fields)
    close(guided_x0(config, params, {'label': LABELS}), expected)
  x0 = uncond + 3.0 * (cond - uncond)
  std = [np.std(a, axis=(1, 2, 3), keepdims=True) for a in (cond, x0)]
  fields = {'sampling.guidance_scale': 3.0, 'sampling.guidance_rescale': 1.0}
  fields['sampling.clip'] = False
  found = guided_x0(smoke(**fields), params, {'label': LABELS})
  close(found, x0 * std[0] / std[1])


def test_a_threshold_takes_the_place_of_the_clip(loud_run):
  _, params, cond, uncond = loud_run
  x0 = np.asarray(uncond + 3.0 * (cond - uncond))
  s = np.quantile(np.abs(x0).reshape(2, -1), 0.9, axis=1)
  s = np.maximum(s, 1.0).reshape(2, 1, 1, 1)
  assert s.max() > 1.1
  for clip in (True, False):
    config = smoke(**{
      'sampling.guidance_scale': 3.0,
      'sampling.dynamic_threshold': 0.9,
      'sampling.clip': clip,
    })  # fmt: skip
    found = guided_x0(config, params, {'label': LABELS})
    close(found, np.clip(x0, -s, s) / s)


def test_a_worse_run_in_place_of_the_null_class_by_hand(loud_run):
  """One that has another network, and takes no labels."""
  _, params, cond, _ = loud_run
  other = smoke(**{'network.channels': 4, 'conditioning.labels': False})
  guide = guidance.GuidingRun(other, loud(other, 1))
  worse = x0_of(network(*guide)(X, LEVEL, {}))
  config = smoke(**{'sampling.guidance_scale': 2.0, 'sampling.clip': False})
  found = guided_x0(config, params, {'label': LABELS}, {'guidance_run': guide})
  close(found, worse + 2.0 * (cond - worse))


def log_prob_gradient(guide, level, x):
  def total(x):
    logits = network(*guide)(x, level, {})
    return jax.nn.log_softmax(logits)[jnp.arange(2), LABELS].sum()

  return jax.jit(jax.grad(total))(x)


def test_guidance_by_a_classifier_by_hand():
  """Of a network without labels, by eps - sigma scale gradient."""
  config = smoke(**{
    'conditioning.labels': False,
    'sampling.clip': False,
    'sampling.classifier_scale': 8.0,
  })  # fmt: skip
  params = loud(config, 0)
  eps = network(config, params)(X, LEVEL, {})
  cond = {'label': LABELS}
  c = classifier_smoke()
  guide = guidance.GuidingRun(c, loud(c, 2))
  shift = -LEVEL.sigma * 8.0 * log_prob_gradient(guide, LEVEL, X)
  eps_hat = eps + shift
  assert np.abs(eps_hat - eps).max() > 1e-3
  found = guided_x0(config, params, cond, {'classifier': guide})
  close(found, x0_of(eps_hat))

  # clipped last, or as guided-diffusion: x0 clipped, then its eps guided
  clipped = np.clip(x0_of(eps), -1.0, 1.0)
  eps_of_clipped = (X - LEVEL.alpha * clipped) / LEVEL.sigma
  assert np.abs(clipped - x0_of(eps)).max() > 0.01
  for first, expected in (
    (False, np.clip(x0_of(eps_hat), -1.0, 1.0)),
    (True, x0_of(eps_of_clipped + shift)),
  ):
    fields = {'clip': True, 'clip_before_classifier': first}
    clipping = config.copy_and_resolve_references()
    clipping.sampling.update(fields)
    found = guided_x0(clipping, params, cond, {'classifier': guide})
    close(found, expected)
  assert np.abs(expected).max() > 1.01  # not clipped again

  # one that was trained on other noise is asked where the SNR is the same
  c = classifier_smoke(**{'schedule.name': 'karras'})
  c.conditioning.noise_input = 'edm'
  guide = guidance.GuidingRun(c, guide.params)
  sigma = LEVEL.sigma / LEVEL.alpha
  there = dj.NoiseLevel(jnp.array(0.5), jnp.array(1.0), sigma)
  gradient = log_prob_gradient(guide, there, X / LEVEL.alpha) / LEVEL.alpha
  eps_hat = eps - LEVEL.sigma * 8.0 * gradient
  found = guided_x0(config, params, cond, {'classifier': guide})
  close(found, x0_of(eps_hat))


@pytest.fixture(scope='module')
def runs(digits_run, tmp_path_factory):
  """Workdirs of tiny runs: with labels, without, and of a classifier."""
  root = tmp_path_factory.mktemp('runs')
  dirs = {name: str(root / name) for name in ('labels', 'none', 'classifier')}
  shutil.copytree(digits_run, dirs['labels'])
  untrained(smoke(**{'conditioning.labels': False}), dirs['none'])
  PROGRAMS['train'](classifier_smoke(), dirs['classifier'])
  return dirs


NUMBERS = itertools.count()


def sample(workdir, **fields):
  fields = {f'sampling.{name}': value for name, value in fields.items()}
  few = {'sampling.num_samples': 4, 'sampling.batch_size': 4}
  name = {'sampling.name': f'samples{next(NUMBERS)}'}
  config = smoke(**few, **name, **fields)
  PROGRAMS['sample'](config, workdir)
  with np.load(f'{workdir}/samples/{config.sampling.name}.npz') as file:
    return dict(file)


def test_a_classifier_run_trains(runs):
  with open(f'{runs["classifier"]}/metrics.jsonl') as file:
    lines = [json.loads(line) for line in file]
  losses = [line['loss'] for line in lines if 'loss' in line]
  assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
  assert 0 <= lines[-1]['test_accuracy'] <= 1


def test_without_samples_training_says_why(runs, capsys):
  assert train.make_preview(classifier_smoke(), None) is None
  assert 'a classifier makes no images' in capsys.readouterr().out
  assert os.listdir(f'{runs["classifier"]}/samples') == []


def test_every_guidance_samples(runs):
  interval = {'guidance_rescale': 0.7, 'guidance_max': 5.0}
  for fields in (
    {'guidance_scale': 2.0, 'guidance_run': runs['none']} | interval,
    {'classifier': runs['classifier'], 'classifier_scale': 3.0},
  ):
    found = sample(runs['labels'], labels=(3, 7), **fields)
    assert found['labels'].tolist() == [3, 7, 3, 7]
    assert found['arr_0'].shape == (4, 8, 8, 1)


def test_the_accuracy_of_a_classifier(runs, capsys):
  """Of all images and times, and as if each batch were evaluated alone."""
  few = {
    'evaluation.num_images': 12,
    'evaluation.batch_size': 8,
    'evaluation.t_min': 0.01,
  }
  workdir = runs['classifier']
  PROGRAMS['evaluate'](classifier_smoke(**few), workdir)
  out = f'{workdir}/evaluation/accuracy-test'
  with open(f'{out}/result.json') as file:
    found = json.load(file)
  assert found['images'] == 12
  np.testing.assert_allclose(found['t'], [0.01, *np.arange(1, 11) / 10])
  right = 12 * np.array(found['accuracy'])
  np.testing.assert_allclose(right, np.rint(right), atol=1e-6)
  assert '0.500' in capsys.readouterr().out
  with Image.open(f'{out}/accuracy.png') as image:
    assert image.size[0] > 300


def test_accuracy_literally(runs):
  """The fraction right, of the metric's own noise, image by image."""
  config = classifier_smoke()
  params = sampling.restore(config, runs['classifier'])
  source = build.build_source(config, 'test')
  images = jnp.asarray(source.read(np.arange(4))[0], jnp.float32) / 8 - 1
  labels = jnp.asarray(source.read(np.arange(4))[1])
  keys = jax.random.split(jax.random.key(0), 4)
  measure = jax.jit(families.of(config).metrics['accuracy'].measure(config))
  found = measure(params, keys, images, {'label': labels})
  ask = jax.jit(build.build_network(config).apply)
  split = jax.vmap(lambda key: jax.random.split(key, 11))(keys)
  alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  for i, t in enumerate([1, *range(100, 1001, 100)]):
    eps = jax.vmap(lambda k: jax.random.normal(k, (8, 8, 1)))(split[:, i])
    x = alpha_bar[t - 1] ** 0.5 * images + (1 - alpha_bar[t - 1]) ** 0.5 * eps
    logits = ask({'params': params['network']}, x, jnp.full(4, t - 1.0))
    guess = np.asarray(logits).argmax(axis=1)
    np.testing.assert_array_equal(found['right'][:, i], guess == labels)


MISTAKES = {
  'scale 2 without a null class': (
    'none',
    {'guidance_scale': 2.0},
    'guidance_scale=2.0 needs a network without a class as well',
  ),
  'a run that guides at scale 1': (
    'labels',
    {'guidance_run': 'x'},
    'guidance_run=x has no effect at sampling.guidance_scale=1',
  ),
  'a rescale at scale 1': (
    'labels',
    {'guidance_rescale': 0.7},
    'guidance_rescale=0.7 has no effect',
  ),
  'an interval at scale 1': (
    'labels',
    {'guidance_max': 5.0},
    'guidance_max=5.0 has no effect',
  ),
  'a scale without a classifier': (
    'none',
    {'classifier_scale': 2.0},
    'classifier_scale=2.0 needs sampling.classifier',
  ),
  'an order of clip and classifier without a classifier': (
    'labels',
    {'clip_before_classifier': True},
    'clip_before_classifier=True needs sampling.classifier, and sampling.clip',
  ),
  'labels of a network without': (
    'none',
    {'labels': (3,)},
    'takes no labels .conditioning.labels., and no sampling.classifier does',
  ),
  'no run there': (
    'none',
    {'classifier': 'nowhere'},
    'there is no run in nowhere',
  ),
  'a classifier that is none': (
    'none',
    {'classifier': '{labels}'},
    'config.sampling.classifier: the run in .* is no classifier',
  ),
  'a classifier in place of a worse run': (
    'labels',
    {'guidance_run': '{classifier}', 'guidance_scale': 2.0},
    'config.sampling.guidance_run: the run in .* is a classifier',
  ),
  'samples of a classifier': (
    'classifier',
    {},
    'this run is a classifier, which makes no images',
  ),
  'a quantile above 1': (
    'labels',
    {'dynamic_threshold': 99.5},
    'config.sampling.dynamic_threshold=99.5 is not in',
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_what_makes_no_sense_is_one_line(runs, name):
  which, fields, message = MISTAKES[name]
  fields = {
    field: value.format(**runs) if isinstance(value, str) else value
    for field, value in fields.items()
  }
  with pytest.raises(UserError, match=message) as error:
    sample(runs[which], **fields)
  assert '\n' not in str(error.value)


def test_metrics_of_the_other_kind_are_refused(runs):
  for kind, make, metric, message in [
    (
      'classifier',
      classifier_smoke,
      'elbo',
      'this run is a classifier, and el',
    ),
    (
      'labels',
      smoke,
      'iw',
      'this run is a diffusion model, and iw',
    ),
    (
      'labels',
      smoke,
      'accuracy',
      'accuracy needs a classifier of these classes, as digits has',
    ),
  ]:
    config = make(**{'evaluation.metrics': (metric,)})
    with pytest.raises(UserError, match=message):
      PROGRAMS['evaluate'](config, runs[kind])


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'network.name': 'unet'}, "'classifier' with network.name='unet'"),
    (
      {'objective.name': 'denoising'},
      "'denoising' with network.name='classifier'",
    ),
    ({'conditioning.labels': True}, 'labels=True needs objective.name=denois'),
    ({'data.num_classes': 0}, 'needs data.num_classes > 1'),
    ({'objective.augment': 0.1}, 'augment=0.1 needs objective.name=denoising'),
  ],
)
def test_what_a_classifier_cannot_be_is_one_line(changes, message):
  with pytest.raises(UserError, match=message) as error:
    config = classifier_smoke(**changes)
    families.of(config).objective(config)
  assert '\n' not in str(error.value)


def test_another_size_of_images_cannot_guide(runs, tmp_path):
  config = smoke()
  stored = run_folder.read_config(runs['classifier'])
  stored['data']['num_classes'] = 7
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  config.sampling.classifier = str(tmp_path)
  with pytest.raises(
    UserError, match='data.num_classes is 7 in .*, 10 in this'
  ):
    guidance_runs.find_guiding_runs(config)
