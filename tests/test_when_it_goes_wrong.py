"""Each row of docs/when_it_goes_wrong.md: a run that fails, and its twin that does not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES
from diffusion_jax.data.small_sets import digits
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.memorisation import memorisation
from diffusion_jax.testing import oracles
from tests.app.conftest import lines_of, trial
from tests.app.fields import within

pytestmark = pytest.mark.docs
SMALL = {'network': 'mlp', 'network.channels': 64, 'network.num_blocks': 2}
SMALL |= within('training', num_steps=200, batch_size=64, log_every=20, checkpoints__every=0)
SMALL |= {'training.sample_every': 0, 'optimizer.warmup_steps': 0, 'optimizer.learning_rate': 2e-3}


def train(workdir, **changes):
  MODES['train'](trial(**SMALL | changes), str(workdir))
  return lines_of(workdir, 'loss')


@pytest.fixture(scope='module')
def young(tmp_path_factory):
  """Trains 200 steps with an average that is almost the first parameters."""
  workdir = tmp_path_factory.mktemp('runs') / 'young'
  average = {'training.average.decay': 0.9999, 'training.average.warmup': False}
  losses = train(workdir, **average)
  return workdir, losses


def test_a_loss_is_flat_at_1_where_nothing_is_learnt(young, tmp_path):
  flat = train(tmp_path, **{'optimizer.learning_rate': 1e-7})
  assert all(0.97 < loss < 1.03 for loss in flat)
  _, mended = young
  assert mended[-1] < 0.35


def test_a_loss_that_is_not_finite_ends_the_training(young, tmp_path):
  with pytest.raises(UserError, match='smaller optimizer.learning_rate'):
    train(tmp_path, **{'optimizer.learning_rate': 1e4})
  assert np.isfinite(young[1]).all()


def likeness(workdir, which):
  """Returns the correlation of the mean of 64 samples with the mean digit."""
  samples = dj.open_run(workdir, weights=which, num_steps=25).draw(64)
  mean = digits().read(slice(None))['x'].mean(axis=0)
  return np.corrcoef(samples.mean(axis=0).ravel(), mean.ravel())[0, 1]


def test_a_young_average_draws_noise(young):
  """A young average is 98 % the first parameters; the last ones draw strokes after 200 steps."""
  assert abs(likeness(young[0], 'average')) < 0.4
  assert likeness(young[0], 'raw') > 0.65


def test_a_network_of_steps_draws_noise_by_times_of_0_to_1():
  """An exact network of data of deviation 1 that reads the step, 0 to 999."""
  data = oracles.gaussian([0.0], [[1.0]])
  schedule = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))

  def network_fn(params, x, noise, cond, *, key=None):
    level = schedule((noise + 1) / 1000)
    return dj.eps_from_x0(data.denoise(x, level).x0, x, level)

  def deviation(noise_input):
    denoise = dj.Network(network_fn, noise_input, parametrization='eps').denoiser({})
    return drawn(denoise, schedule, 50, spacing='logsnr').std()

  assert deviation(dj.step_input(1000)) == pytest.approx(1, abs=0.1)
  assert deviation(dj.time_input(1.0)) > 10


def test_strong_guidance_saturates():
  """Two grey classes, at -0.2 and 0.2: the share of pixels beyond white or black."""
  both = oracles.mixture([0.5, 0.5], [[-0.2], [0.2]], [[[0.06]]] * 2)
  pair = dj.paired(both.component(1).denoise, both.denoise)
  shares = {}
  for scale in 1.5, 20.0:
    x = drawn(dj.classifier_free(pair, scale), dj.LinearVPSchedule(), 100)
    shares[scale] = np.mean(np.abs(x) > 1)
  assert shares[1.5] < 0.01 and shares[20.0] > 0.8


def test_the_run_says_its_devices(young):
  start = json.loads((young[0] / 'sessions.jsonl').read_text().splitlines()[0])
  assert start['devices'] == [device.device_kind for device in jax.devices()]


def drawn(denoise, schedule, num_steps, shape=(2000, 1), **grid):
  """Draws by DDIM with an exact denoiser."""
  levels = dj.level_grid(schedule, num_steps, **grid)
  x = dj.prior_sample(jax.random.key(0), shape, levels.take(0))
  sample = jax.jit(lambda x: dj.sample(jax.random.key(1), denoise, dj.ddim(), levels, x))
  return np.asarray(sample(x))


def test_brightness_is_lost_where_the_last_step_keeps_a_signal():
  """The sum of 64 x 64 x 3 pixels, whose mean varies by 0.3: DDIM maps N(0, 1) to it.

  Its true law at T has the variance alpha^2 S^2 + sigma^2 instead of 1.
  """
  deviation = 0.3 * (64 * 64 * 3) ** 0.5
  brightness = oracles.gaussian([0.0], [[deviation**2]])
  betas = dj.scaled_linear_betas(1000)
  signal = np.prod(1 - betas)
  schedules = [dj.DiscreteSchedule.from_betas(b) for b in (betas, dj.zero_terminal_snr(betas))]
  kept = [drawn(brightness.denoise, s, 1000).std() / deviation for s in schedules]
  assert kept[0] == pytest.approx((signal * deviation**2 + 1 - signal) ** -0.5, rel=0.05)
  assert kept[1] == pytest.approx(1, abs=0.05)


def test_one_step_draws_the_mean_and_few_steps_are_blurred():
  """Details of deviation 0.05 in data of deviation 1."""
  data = oracles.gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 0.05**2]])
  schedule = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))

  def kept(num_steps, **grid):
    x = drawn(data.denoise, schedule, num_steps, (2000, 2), **grid)
    return x.std(axis=0) / [1, 0.05]

  assert max(kept(1)) < 0.02  # grey
  assert kept(10)[0] > 0.8 and kept(10)[1] < 0.2  # blurred
  assert min(kept(250)) > 0.8 and min(kept(25, spacing='logsnr')) > 0.8


def test_pixels_of_0_to_255_are_never_hidden():
  """L_T says it: the signal that is left at t = 1, alpha^2 x^2 / 2."""
  pixels = jnp.asarray(digits().read(np.arange(64))['x'] * 255.0 / 16)
  last = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000)).at_step(1000)
  raw, scaled = (float(dj.prior_kl(x, last).mean()) for x in (pixels, pixels / 127.5 - 1))
  signal = np.square(last.alpha * np.asarray(pixels, float)).sum((1, 2, 3)).mean() / 2
  assert raw == pytest.approx(signal, rel=0.01)
  assert raw > 10 and scaled < 0.01


def test_copies_are_closer_than_held_out_pictures():
  x = digits().read(slice(None))['x'].reshape(-1, 64) / 8.0 - 1.0
  seen, test, new = x[:700], x[700:1000], x[1000:1300]
  copied, others = (memorisation(samples, seen, test) for samples in (seen[:300] + 0.01, new))
  assert copied.closer.value == copied.copied.value == 1
  assert abs(others.closer.value - 0.5) < 0.1 and others.copied.value < 0.05


def test_parts_of_a_batch_take_less_memory():
  memory = []
  for parts in 1, 8:
    fields = {'network': 'mlp', 'network.channels': 64, 'training.batch_size': 512}
    fields |= {'training.machine.accumulate': parts, 'training.mesh': '1,1'}
    step, shapes = dj.training_step('configs/digits.py', fields)
    memory.append(step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes)
  assert memory[1] < memory[0] / 4


def test_bfloat16_has_three_digits_and_float32_six():
  rng = np.random.default_rng(0)
  x, w = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(2))
  exact = x.astype(np.float64) @ w
  errors = []
  for dtype in 'bfloat16', 'float32':
    found = np.asarray(jnp.asarray(x, dtype) @ jnp.asarray(w, dtype), np.float64)
    errors.append(np.abs(found - exact).max() / np.abs(exact).max())
  assert 1e-3 < errors[0] < 1e-2 and errors[1] < 1e-5
