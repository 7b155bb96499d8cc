r"""Bits per dimension of MNIST's 8-bit pixels, one variant for each model.

python launch.py --config=configs/mnist_bits.py
python launch.py --config=configs/mnist_bits.py:vae
python launch.py --config=runs/mnist_bits --mode=evaluate

Measured on the 10,000 test images, or on some of them (docs/results.md):
:binary_masked, in twice its steps, 83.4 nats, :binary_vae 96.2; :masked, in
4,000 steps and 81 min of processor time, 0.97 bits/dim, :d3pm in 900 steps
1.07 (256 images), :latent after :autoencoder 1.26 (1,000 images), :hvae in 500
steps 1.42, :vae 1.52, VDM in 800 steps 1.52 (1,280 images), :flow in 900 steps
1.93 (256 images), :improved 1.95.
"""

from configs import base
from configs.base import section

UNET = {
  'channels': 16,
  'multipliers': (1, 3, 4),
  'num_blocks': 1,
  'num_groups': 8,
  'attention_resolutions': (7,),
}


def get_config(arg=''):
  config = base.short(2000, 1000, steps_per_call=10, held_out=section(batches=20))
  config.training.checkpoints.every = 500
  config.optimizer.weight_decay = 0.01
  kind = arg.removeprefix('binary_')
  config.data = section('mnist')
  if kind != arg:
    config.data = section('binarized', source=section('mnist'))
  MODELS[kind](config)
  if arg == 'binary_vae':
    config.decoding = section(decoder='bernoulli')
  return config


def vdm(config):
  config.schedule = section('learned')
  config.network = section('vdm', channels=32, num_layers=4, num_groups=8)
  config.noise_input = section('logsnr')
  config.objective = section('vdm')
  config.optimizer.b2 = 0.99
  config.evaluation.elbo = section(decoder='categorical', random_steps=8)
  config.evaluation.ode = section(t_min=0.0, dequantization='gaussian')
  config.sampling.update(bound=None, num_steps=100)


def vae(config):
  config.network = section('perceptron', latent_dim=40, hidden=(400, 400))
  config.optimizer.learning_rate = 1e-3
  config.training.update(
    num_steps=20_000,
    batch_size=128,
    steps_per_call=50,
    held_out=section(every=5000, batches=79),  # all 10,000 images
    sample_every=5000,
    checkpoints=section(every=5000),
  )
  config.objective = section('vae')
  config.evaluation.metrics = ('elbo', 'iw')


def hvae(config):
  vae(config)
  config.network = section('hierarchical', channels=32, num_groups=8)
  config.training.update(num_steps=2000, batch_size=64, steps_per_call=10, sample_every=1000)
  config.objective = section('hvae')
  config.evaluation.metrics = ('elbo',)


def masked(config):
  config.network = section('unet', **UNET)
  config.schedule = section('polynomial_masking')
  config.noise_input = section('time')
  config.objective = section('masked')
  config.evaluation.elbo = section(num_times=4)  # of each of 10,000 images


def d3pm(config):
  config.network = section('unet', **UNET)
  steps = section('reciprocal', num_steps=100)
  config.schedule = section('alpha_bar', schedule=steps)
  config.transitions = section('absorbing')
  config.noise_input = section('step')
  config.objective = section('d3pm')
  config.evaluation.num_images = 256


def improved(config):
  config.network = section('unet', **UNET)
  # sigma = 0.004 at the first step; grey levels are 0.0078 apart
  config.schedule = section('linear', start=1.6e-5)
  config.objective = section('hybrid')
  config.evaluation.elbo = section(decoder='categorical', random_steps=8)
  config.sampling.sampler = section('ancestral', variance='learned')
  config.sampling.num_steps = 100


def flow(config):
  config.network = section('unet', **UNET)
  base.rectified_flow(config)
  config.evaluation.update(metrics=('ode',), num_images=256)
  config.sampling.num_steps = 50


def autoencoder(config):
  config.network = section('autoencoder', channels=16, multipliers=(1, 2, 4), num_groups=8)
  config.objective = section('vae')
  config.evaluation.metrics = ('elbo',)


def latent(config):
  config.latent = section('autoencoder', run='runs/mnist_bits-autoencoder', shape=(7, 7, 4))
  config.network = section('unet', channels=64, multipliers=(1,), attention_resolutions=(7,))
  config.schedule = section('cosine')
  config.parametrization = section('v')
  config.objective = section('denoising')
  config.evaluation.update(metrics=('ode',), num_images=1000)
  config.sampling.bound = None


MODELS = {
  '': vdm,
  'vae': vae,
  'hvae': hvae,
  'masked': masked,
  'd3pm': d3pm,
  'improved': improved,
  'flow': flow,
  'autoencoder': autoencoder,
  'latent': latent,
}
VARIANTS = (*filter(None, MODELS), 'binary_vae', 'binary_masked')
