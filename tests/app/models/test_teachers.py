"""Teachers of flow maps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models
from diffusion_jax.app.config import folder
from diffusion_jax.app.models import teachers
from diffusion_jax.app.network import ConfiguredNetwork
from tests.app.conftest import refused, trial
from tests.app.models.test_flow_map import config_of


def write(workdir, name='digits_flow', **changes):
  config = trial(name, 'unscaled' * (name == 'digits_flow'), **changes)
  facts = models.make(config, workdir).facts
  folder.write_config(workdir, config, facts)


def student(teacher) -> Any:
  return models.make(config_of({}, teacher), 'nowhere')


NO_LABELS = {'conditioning.labels': False, 'conditioning.dropout': 0.0}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'digits_meanflow'}, 'is a flow map, and a diffusion model is'),
    ({'name': 'digits_classifier'}, 'is a classifier, and a diffusion model'),
    ({'conditioning.self_conditioning': True}, 'has self-conditioning'),
    (NO_LABELS, 'conditioning.labels is False in .*, and True in this run'),
    ({'conditioning.dropout': 0.0}, 'trained without dropout; set it to 0'),
    ({'data': 'synthetic', 'data.num_classes': 3}, r'the data of .* have (the shape|num_classes)'),
  ],
)
def test_a_run_that_cannot_teach_is_refused(changes, message, tmp_path):
  write(tmp_path, **changes)
  refused(message, lambda: student(tmp_path).objective())


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
  teacher = teachers.of_student(model.noisy, model.workdir)[0]()

  @jax.jit
  def run(t):
    x, level = jnp.ones((2, 8, 8, 1)), dj.RectifiedFlowSchedule()(t)
    x0 = teacher({'teacher': {}}, {})(x, level).x0
    expected = x / level.expand_to(x).alpha
    return x0, expected, level.logsnr, seen[0], seen[0].logsnr

  found = jax.device_get(run(np.array([0.25, 0.5])))
  x0, expected, logsnr, there, logsnr_there = found
  np.testing.assert_allclose(logsnr_there, logsnr, rtol=1e-5)
  power = there.alpha**2 + there.sigma**2
  np.testing.assert_allclose(power, 1, rtol=1e-5)
  np.testing.assert_allclose(x0, expected, rtol=1e-5)
