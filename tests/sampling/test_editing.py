import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj

SCHEDULE = dj.DiscreteSchedule.from_alphas(np.linspace(0.999, 0.9, 50))


def test_noising_step_by_step_has_the_marginals(key):
  """z_i = sqrt(abar_i) x + sqrt(1 - abar_i) noise, at every chosen step."""
  image = jnp.full((200, 200, 1), 0.5)
  steps = [0, 1, 10, 50]
  z = dj.noise_image(key, image, SCHEDULE, steps)
  assert z.shape == (4, 200, 200, 1)
  np.testing.assert_array_equal(z[0], image)
  for i, step in enumerate(steps[1:], 1):
    level = SCHEDULE.at_step(step)
    n = image.size
    error = float(level.sigma) / n**0.5
    assert abs(float(z[i].mean() - level.alpha * 0.5)) < 5 * error
    np.testing.assert_allclose(z[i].std(), level.sigma, rtol=5 / (2 * n) ** 0.5)


def test_the_frames_belong_to_one_noising(key):
  """What step 11 adds to step 10 is its own noise, not a fresh picture."""
  image = jnp.zeros((100, 100, 1))
  a, b = dj.noise_image(key, image, SCHEDULE, [10, 11])
  alpha = SCHEDULE.alphas[10]
  rest = (b - jnp.sqrt(alpha) * a) / jnp.sqrt(1 - alpha)
  np.testing.assert_allclose(rest.std(), 1.0, rtol=0.05)
  correlation = np.corrcoef(np.ravel(a), np.ravel(rest))[0, 1]
  assert abs(correlation) < 5 / 100


def test_chosen_steps_do_not_change_the_noise(key):
  image = jnp.zeros((4, 4, 1))
  few = dj.noise_image(key, image, SCHEDULE, [50])
  many = dj.noise_image(key, image, SCHEDULE, range(51))
  np.testing.assert_allclose(few[0], many[-1], rtol=1e-6)


def test_any_shape_and_jit(key):
  image = jnp.linspace(-1, 1, 6)
  run = jax.jit(lambda x: dj.noise_image(key, x, SCHEDULE, [0, 3]))
  expected = dj.noise_image(key, image, SCHEDULE, [0, 3])
  np.testing.assert_allclose(run(image), expected, rtol=1e-5)


@pytest.mark.parametrize('steps', [[], [3, 2], [-1], [51], 7])
def test_other_steps_are_refused(steps, key):
  with pytest.raises(ValueError, match='steps must be'):
    dj.noise_image(key, jnp.zeros((2, 2)), SCHEDULE, steps)
