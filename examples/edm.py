"""EDM (Karras et al. 2022) on handwritten digits: what configs/digits_edm.py trains.

  python examples/edm.py    # draws edm.png, ten of each digit

Comments name the fields of the config; launch.py has the same losses: bit for bit with
XLA_FLAGS=--xla_backend_optimization_level=0, else to rounding.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.data import drawings, pipeline, small_sets
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training import optimizer

SEED = 0  # config.seed
STEPS, BATCH = 2500, 64  # training.num_steps, training.batch_size
PREDICTS, SIGMA_DATA = 'edm', 0.75  # parametrization, parametrization.sigma_data

digits = small_sets.digits()  # data=digits: 1,437 pictures [8, 8, 1] of 17 levels, in [-1, 1]
schedule = dj.KarrasSchedule()  # schedule=karras
unet = DDPMpp(  # network=ddpmpp
  out_channels=1,
  inputs=Inputs(num_classes=10, null_class=True),  # conditioning.labels, conditioning.dropout
  channels=32,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
)
# optimizer=adamw: the rate climbs for 100 steps, then falls as a cosine; gradients are clipped
adam, rate = optimizer.optimizer_and_rate(
  STEPS, learning_rate=4e-3, warmup_steps=100, decay='cosine'
)
rates = jax.jit(jax.vmap(rate))(jnp.arange(STEPS))
average_rate = optimizer.ema_half_life(20_000.0, BATCH, rampup=0.05)  # training.average=half_life


def apply(params, x, noise, cond, *, key=None):
  """Evaluates the network."""
  return unet.apply({'params': params}, x, noise, cond)


network = dj.Network(  # noise_input=edm
  apply, dj.edm_input, parametrization=PREDICTS, sigma_data=SIGMA_DATA
)


def loss(params, key, batch):
  """Computes EDM's loss (Karras et al. 2022, Eq. 8); a tenth of the batch is without labels."""
  sigma_key, eps_key, drop_key = jax.random.split(key, 7)[:3]
  x0, size = batch['x'], len(batch['x'])
  level, _ = dj.log_normal_times()(sigma_key, size, schedule)  # objective.times=log_normal
  eps = jax.random.normal(eps_key, x0.shape)
  drop = jax.random.bernoulli(jax.random.split(drop_key)[0], 0.1, (size,))
  cond = {'label': batch['label'], 'drop': drop}
  output = network.output(params, dj.q_sample(x0, eps, level), level, cond)
  weight = dj.edm_weight(SIGMA_DATA)  # objective.weight=edm
  losses = dj.denoising_loss(PREDICTS, output, x0, eps, level, weight, sigma_data=SIGMA_DATA)
  return (losses / x0[0].size).mean()


@jax.jit
def step(state, batch, key, i):
  """Takes one step of Adam and of the average."""
  params, average, moments = state
  value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, i), batch)
  updates, moments = adam.update(grads, moments, params)
  params = optax.apply_updates(params, jax.tree.map(lambda x: rates[i] * x, updates))
  average = optax.incremental_update(params, average, average_rate(i))
  return (params, average, moments), value


def train(steps=STEPS):
  """Returns the averaged parameters, and the losses [steps]."""
  key = jax.random.split(stream(SEED, 'parameters'))[0]
  keys = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
  label = {'label': jnp.zeros(1, jnp.int32)}
  params = jax.jit(unet.init)(keys, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), label)['params']
  state, losses = (params, params, adam.init(params)), []
  for i, batch in zip(range(steps), pipeline.batches(digits, BATCH, SEED), strict=False):
    state, value = step(state, batch, stream(SEED, 'training'), i)
    losses.append(value)
    if i % 500 == 349:
      print(f'step {i + 1}: loss {np.mean(losses[-500:]):.4f}', flush=True)
  return state[1], np.array(losses)


def draw(params, label, key):
  """Draws a picture for each label [B], in 18 steps of Heun's method (config.sampling)."""
  x_key, key = jax.random.split(key)
  levels = dj.level_grid(schedule, 18)
  x = dj.prior_sample(x_key, (len(label), 8, 8, 1), levels.take(0))
  return dj.sample(key, network.denoiser(params, {'label': label}), dj.heun(), levels, x)


def main(argv=None):
  """Trains, and draws ten pictures of each digit."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=STEPS)
  parser.add_argument('--out', default='edm.png')
  given = parser.parse_args(argv)
  params, _ = train(given.steps)
  x = jax.jit(draw)(params, jnp.tile(jnp.arange(10), 10), jax.random.key(1))
  table = drawings.grid(digits.facts.x.decode(np.asarray(x)), 10, 4)
  Image.fromarray(table.squeeze()).save(given.out)
  print(given.out)


if __name__ == '__main__':
  main()
