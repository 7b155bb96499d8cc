"""A config with the fields of imported weights builds the same network."""

from typing import Any

import jax
import numpy as np
import pytest

from configs import base
from diffusion_jax import families
from diffusion_jax.build import audit
from diffusion_jax.build.network import build_network, build_noise_input
from diffusion_jax.build.sampling import build_levels, build_sampler
from diffusion_jax.build.schedule import build_schedule
from diffusion_jax.interop import edm, ho, names, openai, score_sde
from diffusion_jax.networks.unet import UNet

NCSNPP = dict(
  model_type='SongUNet',
  encoder_type='residual',
  embedding_type='fourier',
  channel_mult_noise=2,
  resample_filter=[1, 3, 3, 1],
)


def config_of(fields):
  config: Any = base.get_config()
  config.data.name = 'synthetic'
  for path, value in fields.items():
    section, name = path.split('.')
    config[section][name] = value
  return config


def check(network, fields):
  config = config_of(fields)
  audit.audit(config)
  assert build_network(config) == network
  build_noise_input(config)
  families.of(config).objective(config)
  if fields.get('objective.name') != 'classifier':
    schedule = build_schedule(config)
    build_sampler(config, schedule)
    steps = len(build_levels(config, schedule).t) - 1
    assert steps == config.sampling.num_steps


@pytest.mark.parametrize('model', openai.MODELS)
def test_openai(model):
  flags = openai.choose_flags(model)
  classes = 1000 if flags.class_cond or flags.classifier else 0
  check(*openai.make_network(flags, classes))


@pytest.mark.parametrize(
  'model',
  [n for n in score_sde.MODELS if 'ddpmpp' in n or 'ncsnpp_' in n],
)
def test_score_sde(model):
  options = score_sde.choose_options(model)
  check(*score_sde.make_network(options))


def test_ho():
  network = UNet(32, (1, 2), 1, (16,), dropout=0.1)
  shapes = ho.parameter_shapes(network, 32)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
  variables = names.write(ho.table(network, shapes), zeros)
  found = ho.from_tensors(variables, ema=False)
  assert found.network == network
  check(network, found.fields)


@pytest.mark.parametrize(
  'options',
  [
    dict(model_type='SongUNet', augment_dim=9),
    dict(model_type='SongUNet', label_dim=10, label_dropout=0.1),
    dict(model_type='SongUNet', precond='VPPrecond'),
    NCSNPP,
    NCSNPP | dict(precond='VEPrecond'),
    dict(label_dim=1000),
    dict(label_dim=1000, precond='iDDPMPrecond'),
  ],
)
def test_edm(options):
  chosen = edm.choose_options(img_resolution=32, **options)
  check(*edm.make_network(chosen))
