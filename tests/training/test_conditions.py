import jax
import numpy as np

from diffusion_jax.training import conditions, masks

X0 = np.random.default_rng(1).uniform(-1.0, 1.0, (5, 4, 6, 3))
X0 = X0.astype(np.float32)


def test_known_pixels_and_where_they_are(key):
  mask = jax.random.bernoulli(key, 0.5, (5, 4, 6, 1))
  found = np.asarray(conditions.known_pixels(X0, mask))
  assert found.shape == (5, 4, 6, 4)
  np.testing.assert_array_equal(found[..., 3], np.asarray(mask)[..., 0])
  for c in range(3):
    expected = np.asarray(X0)[..., c] * np.asarray(mask)[..., 0]
    np.testing.assert_array_equal(found[..., c], expected)


def test_superres_is_conditioned_on_means_over_blocks():
  found = conditions.superres(2)(None, X0)
  assert found.shape == X0.shape
  x = np.asarray(X0, np.float64)
  for i in range(4):
    for j in range(6):
      block = x[:, i // 2 * 2 :, j // 2 * 2 :][:, :2, :2].mean(axis=(1, 2))
      np.testing.assert_allclose(found[:, i, j], block, atol=1e-6)


def test_an_image_condition_is_of_the_example_itself(key):
  """Its masks have their own key, which other conditions do not change."""
  batch = {'x': X0, 'label': np.arange(5)}
  condition = conditions.make_condition(True, 0.5, conditions.inpaint())

  @jax.jit
  def run(key, batch):
    drawn = masks.draw_masks(jax.random.fold_in(key, 1), X0.shape)
    plain = conditions.make_condition(True, 0.5)(key, batch)
    return condition(key, batch), drawn, plain

  cond, drawn, plain = jax.device_get(run(key, batch))
  assert set(cond) == {'label', 'image', 'drop'}
  mask = cond['image'][..., 3:] == 1.0
  np.testing.assert_array_equal(mask, drawn)
  known = conditions.known_pixels(X0, mask)
  np.testing.assert_array_equal(cond['image'], known)
  # labels and drops are the same as without it
  np.testing.assert_array_equal(cond['drop'], plain['drop'])


def test_conditions_are_dropped_with_the_probability(key):
  batch = {'x': np.zeros((4096, 1)), 'label': np.zeros(4096)}
  drop = conditions.make_condition(True, 0.2)(key, batch)['drop']
  assert abs(drop.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4096)
