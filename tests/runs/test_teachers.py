import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from configs import digits_distilled, digits_flow
from diffusion_jax import families
from diffusion_jax.errors import UserError
from diffusion_jax.runs import run_folder, teachers


@pytest.fixture
def pair(tmp_path):
  """Configs of a student and its teacher, and a function that writes that."""
  student = digits_distilled.get_config('smoke')
  student.objective.teacher = str(tmp_path)
  return student, digits_flow.get_config('unscaled_smoke')


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'objective.name': 'mean_flow', 'objective.weight': 'snr'}, 'flow map'),
    ({'objective.name': 'classifier'}, 'is a classifier'),
    ({'conditioning.self_conditioning': True}, 'has self-conditioning'),
    ({'conditioning.labels': False}, 'conditioning.labels is False in'),
    ({'conditioning.dropout': 0.0}, 'was trained without; set it to 0'),
    ({'data.num_classes': 3}, 'data.num_classes is 3 in'),
  ],
)
def test_a_run_that_cannot_teach_is_refused(changes, message, pair, tmp_path):
  student, teacher = pair
  with pytest.raises(UserError, match='there is no run in'):
    families.of(student).objective(student)
  teacher.update_from_flattened_dict(changes)
  run_folder.write_config(tmp_path, teacher)
  with pytest.raises(UserError, match=message) as found:
    teachers.make_teacher(student)
  assert '\n' not in str(found.value)


def test_a_teacher_of_another_schedule_sees_its_own_levels(
  pair, tmp_path, monkeypatch
):
  """Of the same SNR, with x_t scaled to them; a perfect network of 0 output."""
  student, teacher = pair
  teacher.schedule.name = 'continuous_cosine'
  teacher.objective.parametrization = 'eps'  # x0 = x_t / alpha for eps = 0
  teacher.objective.weight = 'snr'
  run_folder.write_config(tmp_path, teacher)
  seen = []

  def of_network(config, params, cond):
    def denoise(xt, level):
      seen.append(level)
      return dj.Prediction(xt / level.expand_to(xt).alpha)

    return denoise

  monkeypatch.setattr(teachers, 'of_network', of_network)
  level = dj.RectifiedFlowSchedule()(jnp.array([0.25, 0.5]))
  x = jnp.ones((2, 8, 8, 1))
  found = teachers.make_teacher(student)({'teacher': {}}, {})(x, level).x0
  np.testing.assert_allclose(seen[0].logsnr, level.logsnr, rtol=1e-5)
  np.testing.assert_allclose(
    seen[0].alpha ** 2 + seen[0].sigma ** 2, 1, rtol=1e-5
  )
  np.testing.assert_allclose(found, x / level.expand_to(x).alpha, rtol=1e-5)


def test_distillation_without_a_teacher_is_refused(pair):
  student, _ = pair
  student.objective.teacher = None
  with pytest.raises(UserError, match='objective.teacher is needed by'):
    families.of(student).objective(student)
