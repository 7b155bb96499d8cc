"""Which runs can teach, and at which levels they are asked."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models
from diffusion_jax.app.config import folder
from diffusion_jax.app.models import teachers
from diffusion_jax.app.noisy import NoisyNetwork
from tests.app.conftest import refused, trial


def write(workdir, name='digits_flow', **changes):
  config = trial(name, 'unscaled' * (name == 'digits_flow'), **changes)
  facts = models.make(config, workdir).facts
  folder.write_config(workdir, config, facts)


def student(teacher) -> Any:
  fields = {'training.teacher': teacher, 'training.init_from': ''}
  return models.make(trial('digits_distilled', **fields), 'nowhere')


NO_LABELS = {'conditioning.labels': False, 'conditioning.dropout': 0.0}


@pytest.mark.parametrize('changes, message', [
  ({'name': 'digits_meanflow'}, 'is a flow map, and a diffusion model is'),
  ({'name': 'digits_classifier'}, 'is a classifier, and a diffusion model'),
  ({'conditioning.self_conditioning': True}, 'has self-conditioning'),
  (NO_LABELS, 'conditioning.labels is False in .*, and True in this run'),
  ({'conditioning.dropout': 0.0}, 'trained without dropout; set it to 0'),
  ({'data': 'synthetic', 'data.num_classes': 3},
   r'the data of .* have (the shape|num_classes)'),
])  # fmt: skip
def test_a_run_that_cannot_teach_is_refused(changes, message, tmp_path):
  write(tmp_path, **changes)
  refused(message, lambda: student(tmp_path).objective())


def test_a_teacher_of_another_schedule_sees_its_own_levels(
  tmp_path, monkeypatch
):
  """The levels have the same SNR, and x_t is scaled; the output is 0."""
  write(tmp_path, **{
    'schedule': 'continuous_cosine',
    'parametrization': 'eps',  # x0 = x_t / alpha for eps = 0
    'objective.weight': 'snr',
  })  # fmt: skip
  seen = []

  def denoiser(self, params, cond):
    def denoise(xt, level):
      seen.append(level)
      return dj.Prediction(xt / level.expand_to(xt).alpha)

    return denoise

  monkeypatch.setattr(NoisyNetwork, 'denoiser', denoiser)
  level = dj.RectifiedFlowSchedule()(jnp.array([0.25, 0.5]))
  x = jnp.ones((2, 8, 8, 1))
  model = student(tmp_path)
  teacher = teachers.of_student(model.noisy, model.workdir)[0]()
  x0 = teacher({'teacher': {}}, {})(x, level).x0
  np.testing.assert_allclose(seen[0].logsnr, level.logsnr, rtol=1e-5)
  np.testing.assert_allclose(
    seen[0].alpha ** 2 + seen[0].sigma ** 2, 1, rtol=1e-5
  )
  np.testing.assert_allclose(x0, x / level.expand_to(x).alpha, rtol=1e-5)
