import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from tests.app.conftest import refused, smoke, unet_smoke, untrained

TWO_EMAS = {'training.more_ema_decays': (0.5,)}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Trains four steps with a second average."""
  workdir = tmp_path_factory.mktemp('runs') / 'two'
  MODES['train'](smoke(**TWO_EMAS), workdir)
  return workdir


def bias(run, **fields):
  """Returns a bias of the parameters that config.sampling chooses."""
  fields = {f'sampling.{name}': value for name, value in fields.items()}
  params, step = weights.restore(models.make(smoke(**TWO_EMAS, **fields), run))
  assert step == int(fields.get('sampling.checkpoint', 4))
  return params['network']['conv_in']['bias']


def test_any_average_and_checkpoint_can_be_sampled_from(run):
  raw, slow, half = (
    bias(run, checkpoint='2', **fields)
    for fields in ({'ema': False}, {}, {'ema_decay': 0.5})
  )
  # steps 1 and 2 of ema_warmup: decays 0.1 and 2/11, for any rate
  np.testing.assert_allclose(half, slow, rtol=1e-5)
  assert (raw != slow).any()
  latest = bias(run)
  assert (latest == bias(run, checkpoint='4')).all()
  assert (latest != slow).any()


def test_what_the_run_does_not_have_is_one_line(run):
  message = "no average '0.9' of the parameters, but 0.5"
  refused(message, bias, run, ema_decay=0.9)
  refused('contains no checkpoint 3 but 2, 4', bias, run, checkpoint='3')


def test_another_network_is_refused_and_the_same_is_not_traced(
  tmp_path, monkeypatch
):
  run = untrained(unet_smoke(), tmp_path)
  other = models.make(unet_smoke(**{'network.channels': 12}), run)
  message = r'checkpoint 4 is of another network: network/conv_in/bias is \[8\]'
  refused(message, weights.restore, other)
  monkeypatch.setattr(models, 'shapes', None)
  _, step = weights.restore(models.make(unet_smoke(), run))
  assert step == 4
