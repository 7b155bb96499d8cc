"""The clocks that a config chooses, and the weights of an example and its label."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.joint import label_objective
from diffusion_jax.training.objectives import Context

NAMES = ['label', 'x']
SIZE = 4000


def times(clocks):
  return {n: np.asarray(c.t) for n, c in clocks(jax.random.key(0), SIZE, NAMES).items()}


def test_each_clock_of_a_config_is_what_its_word_says():
  common = times(label_objective.common_clocks())
  assert_array_equal(common['x'], common['label'])
  own = times(label_objective.independent_clocks())
  assert abs(np.corrcoef(own['x'], own['label'])[0, 1]) < 4.5 / SIZE**0.5
  held = times(label_objective.held_clocks(1.0, 0.25))
  for name in NAMES:  # One of the two never is held, and the other by a rate from U(0, 1).
    clean, noise = np.mean(held[name] == 0.0), np.mean(held[name] == 1.0)
    assert abs(clean - 0.25 * 0.75) < 0.03 and abs(noise - 0.25 * 0.25) < 0.03
  assert not np.any((held['x'] == 0.0) & (held['label'] == 0.0))


def test_x_counts_in_the_mean_of_its_numbers():
  variables = {
    'x': joint.gaussian(dj.CosineSchedule()),
    'label': joint.states(dj.masking_process(3), dj.PolynomialMasking()),
  }

  def apply(params, x, noise, cond, *, key=None):
    return {'x': 0.3 * x['x'], 'label': jnp.zeros((len(x['x']), 4))}

  objective = label_objective.labelled(
    joint.JointNetwork(apply, variables),
    lambda batch: {'x': batch['pictures'], 'label': batch['classes']},
    6,
    clocks=joint.common_clock,
    label_weight=0.5,
  )
  batch = {'pictures': jnp.ones((8, 2, 3)), 'classes': jnp.arange(8) % 3}
  _, (metrics, _) = jax.jit(objective)({'network': ()}, Context(), jax.random.key(1), batch)
  found = {name: float(x.total / x.count) for name, x in metrics.items()}
  assert_allclose(found['loss'], found['loss_x'] / 6 + 0.5 * found['loss_label'], rtol=1e-5)
