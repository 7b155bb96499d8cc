"""Guided sampling by the condition or by other runs, and noisy classifiers."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import other_runs
from diffusion_jax.app.kinds.model import OtherRun
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, normal_params, refused, smoke, stored_run, trial
from tests.app.fields import within
from tests.app.kinds.test_classifier import classifier_smoke
from tests.app.kinds.test_few_steps import config_of
from tests.jitted import level_at
from tests.transcribed import transcribes

LABELS = np.array([3, 8])
X = np.float32(0.5 * np.random.default_rng(5).normal(size=(2, 8, 8, 1)))


def made(config, seed) -> Any:
  """Returns a model with parameters away from the initial zeros."""
  model: Any = make_model(config, RunFolder.at('nowhere'))
  return model.noisy, normal_params(model, seed)


SMOKE: Any = make_model(smoke(), RunFolder.at('nowhere'))
LEVEL = jax.device_get(level_at(SMOKE.noisy.schedule(), 0.4))


def network(model, params):
  """Returns (x, level, cond) -> the output of the Flax module."""

  @jax.jit
  def apply(params, x, level, cond):
    noise = jnp.broadcast_to(model.process.noise_input(level), 2)
    return model.network.apply({'params': params}, x, noise, cond)

  return functools.partial(apply, params['network'])


def x0_of(eps):
  return (X - LEVEL.sigma * np.asarray(eps)) / LEVEL.alpha


def guided_x0(config, params, cond, runs=None):
  model: Any = make_model(config, RunFolder.at('nowhere'))

  @jax.jit
  def ask(params, guides):
    return model.plan(params, guides).step_function(cond)(X, LEVEL).x0

  return ask(params, runs or {})


def close(x, expected):
  assert_allclose(x, expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope='module')
def loud():
  """Computes (parameters, x0 with the label, x0 without) by hand."""
  model, params = made(smoke(), 0)
  ask = network(model, params)
  cond = x0_of(ask(X, LEVEL, {'label': LABELS}))
  uncond, same = (
    x0_of(ask(X, LEVEL, {'label': labels, 'drop': np.ones(2, bool)}))
    for labels in (LABELS, LABELS - 1)
  )
  assert_array_equal(uncond, same)  # the labels do not matter
  return params, cond, uncond


def test_guidance_without_a_classifier_by_hand(loud):
  params, cond, uncond = loud
  assert np.abs(cond - uncond).max() > 0.01
  for fields, expected in [
    ({'bound': 'clip'}, np.clip(cond, -1.0, 1.0)),
    ({'guidance.scale': 0.0}, uncond),
    ({'guidance.scale': 3.0, 'bound': 'clip'}, np.clip(uncond + 3.0 * (cond - uncond), -1.0, 1.0)),
    ({'guidance.scale': 3.0, 'guidance.interval': (0.0, 0.1)}, cond),
    ({'guidance.scale': 3.0, 'guidance.interval': '1e3,inf'}, cond),
  ]:
    fields = within('sampling', **fields)
    config = smoke(**{'sampling.bound': None} | fields)
    close(guided_x0(config, params, {'label': LABELS}), expected)
  # Lin et al. 2023 rescale the output, here eps.
  eps = [(X - LEVEL.alpha * a) / LEVEL.sigma for a in (cond, uncond)]
  eps.append(eps[1] + 3.0 * (eps[0] - eps[1]))
  std = [np.std(a, axis=(1, 2, 3), keepdims=True) for a in eps]
  fields = {'sampling.guidance.scale': 3.0, 'sampling.guidance.rescale': 1.0}
  fields['sampling.bound'] = None
  x = guided_x0(smoke(**fields), params, {'label': LABELS})
  close(x, x0_of(eps[2] * std[0] / std[2]))


@transcribes('Karras et al. 2024', 'autoguidance', '`paired`')
def test_a_worse_run_in_place_of_the_null_class_by_hand(loud):
  """The worse run has another network, without labels."""
  params, cond, _ = loud
  other = {'network.channels': 4, 'conditioning.labels': False}
  guide = OtherRun(*made(smoke(**other, **{'conditioning.dropout': 0.0}), 1))
  worse = x0_of(network(guide.noisy, guide.params)(X, LEVEL, {}))
  config = smoke(
    **within('sampling', bound=None),
    **within('sampling.guidance', 'autoguidance', run='there', scale=2.0),
  )
  x = guided_x0(config, params, {'label': LABELS}, {'guidance': guide})
  close(x, worse + 2.0 * (cond - worse))


def log_prob_gradient(guide, level, x):
  def total(x):
    logits = network(guide.noisy, guide.params)(x, level, {})
    return jax.nn.log_softmax(logits)[np.arange(2), LABELS].sum()

  return np.asarray(jax.jit(jax.grad(total))(x))


def test_guidance_by_a_classifier_by_hand():
  """A network without labels predicts eps - sigma scale gradient."""
  fields = within('conditioning', labels=False, dropout=0.0)
  fields |= within('sampling', bound=None)
  fields |= within('sampling.classifier', run='there', scale=8.0)
  config = smoke(**fields)
  model, params = made(config, 0)
  eps = np.asarray(network(model, params)(X, LEVEL, {}))
  cond = {'label': LABELS}
  guide = OtherRun(*made(classifier_smoke(), 2))
  shift = -LEVEL.sigma * 8.0 * log_prob_gradient(guide, LEVEL, X)
  eps_hat = eps + shift
  assert np.abs(eps_hat - eps).max() > 1e-3
  x = guided_x0(config, params, cond, {'classifier': guide})
  close(x, x0_of(eps_hat))

  # clipped last, or as guided-diffusion: x0 clipped, then its eps guided
  clipped = np.clip(x0_of(eps), -1.0, 1.0)
  eps_of_clipped = (X - LEVEL.alpha * clipped) / LEVEL.sigma
  assert np.abs(clipped - x0_of(eps)).max() > 0.01
  for after_clip, expected in (
    (False, np.clip(x0_of(eps_hat), -1.0, 1.0)),
    (True, x0_of(eps_of_clipped + shift)),
  ):
    more = within('sampling', **{'bound': 'clip', 'classifier.after_clip': after_clip})
    clipping = smoke(**fields | more)
    x = guided_x0(clipping, params, cond, {'classifier': guide})
    close(x, expected)
  assert np.abs(expected).max() > 1.01  # not clipped again

  # a classifier that was trained on other noise is asked at the same SNR
  other = {'schedule': 'karras', 'noise_input': 'edm'}
  other: Any = make_model(classifier_smoke(**other), RunFolder.at('nowhere'))
  guide = OtherRun(other.noisy, guide.params)
  sigma = LEVEL.sigma / LEVEL.alpha
  there = dj.NoiseLevel(np.float32(0.5), np.float32(1.0), sigma)
  gradient = log_prob_gradient(guide, there, X / LEVEL.alpha) / LEVEL.alpha
  eps_hat = eps - LEVEL.sigma * 8.0 * gradient
  x = guided_x0(config, params, cond, {'classifier': guide})
  close(x, x0_of(eps_hat))


def test_other_images_cannot_guide(tmp_path):
  names = tuple('0123456789')
  for changes, message in (
    ({'num_classes': 7}, 'num_classes is 7, and here 10'),
    ({'class_names': names[::-1]}, "class 0 is '9', and here '0'"),
  ):
    facts = DIGITS._replace(**changes).as_json()
    run = stored_run(tmp_path, classifier_smoke(), facts=facts)
    model = make_model(smoke(**{'sampling.classifier.run': run}), RunFolder.at('nowhere'))
    named = model.facts._replace(class_names=names)
    model = dataclasses.replace(model, facts=named)
    refused(f'in the data of .* {message}', other_runs.guides_of, model)


def write(workdir, name='digits_flow', **changes):
  config = trial(name, 'unscaled' * (name == 'digits_flow'), **changes)
  facts = make_model(config, RunFolder.at(workdir)).facts
  folder.write_config(RunFolder.at(workdir), config, facts)


def student(teacher, **changes) -> Any:
  return make_model(config_of(changes, teacher), RunFolder.at('nowhere'))


NO_LABELS = {'conditioning.labels': False, 'conditioning.dropout': 0.0}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'digits_meanflow'}, 'is a flow map, and a diffusion model is'),
    ({'name': 'digits_classifier'}, 'is a classifier, and a diffusion model'),
    ({'conditioning.self_conditioning': True}, 'has self-conditioning'),
    (NO_LABELS, 'conditioning.labels is False in .*, and True in this run'),
    ({'conditioning.dropout': 0.0}, 'trained without dropout; set it to 0'),
    ({'data': 'synthetic', 'data.num_classes': 3}, 'in the data of .* shape of x is'),
  ],
)
def test_a_run_that_cannot_teach_is_refused(changes, message, tmp_path):
  write(tmp_path, **changes)
  refused(message, lambda: student(tmp_path).objective())


def test_a_coupling_can_only_teach_by_pairs(tmp_path):
  write(tmp_path, **{'objective.coupling': 'exact'})
  student(tmp_path).objective()  # reflow
  other = student(tmp_path, objective='progressive_distillation')
  refused('was trained with objective.coupling=exact: take reflow', other.objective)


def test_a_teacher_of_another_schedule_sees_its_own_levels(tmp_path, monkeypatch):
  """The levels have the same SNR, and x_t is scaled; the output is 0."""
  fields = {'schedule': 'continuous_cosine', 'objective.weight': 'snr'}
  fields['parametrization'] = 'eps'  # x0 = x_t / alpha for eps = 0
  write(tmp_path, **fields)
  seen = []

  def denoiser(self, params, cond):
    def denoise(xt, level):
      seen.append(level)
      return dj.Prediction(xt / level.expand_to(xt).alpha)

    return denoise

  monkeypatch.setattr(ConfiguredNetwork, 'denoiser', denoiser)
  model = student(tmp_path)
  teacher = other_runs.teacher_of(model.noisy, model.workdir)[0]()

  @jax.jit
  def run(t):
    x, level = jnp.ones((2, 8, 8, 1)), dj.RectifiedFlowSchedule()(t)
    x0 = teacher({'teacher': {}}, {})(x, level).x0
    expected = x / level.expand_to(x).alpha
    return x0, expected, level.logsnr, seen[0], seen[0].logsnr

  found = jax.device_get(run(np.array([0.25, 0.5])))
  x0, expected, logsnr, there, logsnr_there = found
  assert_allclose(logsnr_there, logsnr, rtol=1e-5)
  power = there.alpha**2 + there.sigma**2
  assert_allclose(power, 1, rtol=1e-5)
  assert_allclose(x0, expected, rtol=1e-5)
