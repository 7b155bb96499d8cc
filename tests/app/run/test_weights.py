"""Parameters of a run that are used: checkpoints, and averages old and new."""

import jax
import numpy as np

from diffusion_jax.app import models
from diffusion_jax.app.run import weights
from diffusion_jax.interop import files
from diffusion_jax.training import power_ema
from diffusion_jax.weights import averages
from tests.app.conftest import assert_same, params_of, refused, restored, unet_smoke, untrained
from tests.app.fields import within


def restore(workdir, **fields):
  return restored(workdir, **within('sampling', **fields))


def bias(run, **fields):
  """Returns a bias of the parameters that config.sampling chooses."""
  return restore(run, **fields)['network']['conv_in']['bias']


def test_any_average_and_checkpoint_can_be_sampled_from(averaged):
  raw, slow, half = (
    bias(averaged, checkpoint='2', **fields) for fields in ({'ema': False}, {}, {'ema_decay': 0.5})
  )
  # steps 1 and 2 of ema_warmup: decays 0.1 and 2/11, for any rate
  np.testing.assert_allclose(half, slow, rtol=1e-5)
  assert (raw != slow).any()
  expected = params_of(averaged, 'raw', step=2)['network']['conv_in']['bias']
  np.testing.assert_array_equal(raw, expected)
  latest = bias(averaged)
  assert (latest == bias(averaged, checkpoint='4')).all()
  assert (latest != slow).any()


def test_what_the_run_does_not_have_is_one_line(averaged):
  message = "no average '0.9' of the parameters, but .*, 0.5"
  refused(message, bias, averaged, ema_decay=0.9)
  refused('contains no checkpoint 7 but 1, 2, 3, 4', bias, averaged, checkpoint='7')


def test_another_network_is_refused_and_the_same_is_not_traced(tmp_path, monkeypatch):
  run = untrained(unet_smoke(), tmp_path)
  other = models.make(unet_smoke(**{'network.channels': 12}), run)
  message = r'checkpoint 4 is of another network: network/conv_in/bias is \[8\]'
  refused(message, weights.restore, other)
  monkeypatch.setattr(models, 'shapes', None)
  _, step = weights.restore(models.make(unet_smoke(), run))
  assert step == 4


def test_snapshots_hold_the_averages_of_the_training(averaged):
  """The recursion is computed in float64 from the parameters of each step."""
  params = [params_of(averaged, 'raw', step=i) for i in (1, 2, 3, 4)]
  for sigma_rel, name in ((0.05, 'sigma_rel_0.05'), (0.1, 'sigma_rel_0.1')):
    gamma = power_ema.exponent(sigma_rel)
    expected = jax.tree.map(np.float64, params[0])
    for t, now in enumerate(params[1:], 2):
      beta = (1.0 - 1.0 / t) ** (gamma + 1.0)
      expected = jax.tree.map(
        lambda a, x, beta=beta: beta * a + (1.0 - beta) * np.float64(x), expected, now
      )
    stored = files.read_tensors(averages.path_of(averaged, 4))
    for path, x in files.flatten(expected).items():
      np.testing.assert_allclose(stored[f'{name}/{path}'], x, rtol=1e-4, atol=1e-6)
    assert_same(restore(averaged, ema_sigma_rel=sigma_rel), params_of(averaged, name))
  assert averages.read_images(averaged, 3) == 3 * 8
