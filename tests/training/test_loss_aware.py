"""The sampler of Nichol & Dhariwal 2021, section 3.3, against Python lists."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.training.loss_aware import init_loss_history, loss_aware_times, record
from tests.transcribed import transcribes

T = 5
SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(T))
record_jit = jax.jit(record)


def probabilities(lists, length=10):
  """Computes p_t ~ sqrt(E[L_t^2]) of the latest ten, 0.1 % uniform."""
  if min(map(len, lists)) < length:
    return np.full(T, 1 / T)
  size = np.array([np.sqrt(np.mean(np.square(x[-length:]))) for x in lists])
  return 0.999 * size / size.sum() + 0.001 / T


@transcribes(
  'IDDPM (Nichol & Dhariwal 2021)',
  '18: steps drawn by their losses',
  '`training.loss_aware.record`',
)
def test_iddpm_eq_18_probabilities_literally():
  """A step occurs never, once, or more than ten times in a batch."""
  rng = np.random.default_rng(0)
  history, lists = init_loss_history(T), [[] for _ in range(T)]
  least = []
  for i in range(8):
    steps = 1 + rng.choice(T, 32, p=np.roll([0.5, 0.3, 0.1, 0.06, 0.04], i))
    missing = np.repeat(np.arange(1, T + 1), [max(10 - len(x), 0) for x in lists])
    if 0 < len(missing) <= 32:  # Some steps have exactly 10 losses now.
      steps[:] = 1 + np.argmax([*map(len, lists)])
      steps[: len(missing)] = missing
    losses = rng.exponential(steps).astype(np.float32)
    for step, loss in zip(steps, losses, strict=True):
      lists[step - 1].append(loss)
    history = record_jit(history, jnp.asarray(steps), jnp.asarray(losses))
    assert_allclose(history.probs, probabilities(lists), rtol=1e-5)
    assert history.count.tolist() == list(map(len, lists))
    least.append(min(map(len, lists)))
  assert least[0] < 10 and 10 in least and least[-1] > 10
  for row, values in zip(history.losses, lists, strict=True):
    assert_array_equal(np.sort(row), np.sort(values[-10:]))


def test_a_history_keeps_its_type():
  """A state of another type would compile the training step twice."""
  before = init_loss_history(T)
  after = record_jit(before, jnp.array([1]), jnp.array([1.0]))
  for a, b in zip(before, after, strict=True):
    assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)


def test_steps_are_drawn_and_weighted_by_the_probabilities(key):
  probs = np.array([0.1, 0.2, 0.4, 0.05, 0.25])
  history = init_loss_history(T)._replace(probs=jnp.asarray(probs, jnp.float32))
  level, weight = jax.jit(lambda key: loss_aware_times(history)(key, 20_000, SCHEDULE))(key)
  step = np.rint(np.asarray(level.t) * T).astype(int)
  share = np.bincount(step, minlength=T + 1)[1:] / 20_000
  error = np.sqrt(probs * (1 - probs) / 20_000)
  assert (np.abs(share - probs) < 4 * error).all()
  assert_allclose(weight, 1 / (T * probs[step - 1]), rtol=1e-5)
