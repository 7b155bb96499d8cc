"""A large network on few digits: when does it memorise them?

  python -m benchmarks.memorised              # 3 trainings; prints each curve
  python -m benchmarks.memorised --sizes=50   # one of them

A perceptron of about 900,000 parameters learns the noise in 50, 300 or 1,437
digits (all of them), without their classes. Printed for each step: the loss on
the training digits and on the 360 test digits, always with the same noise. Below
them: the least loss on the training digits ('memorised', the exact denoiser of
these examples), the loss of the best linear denoiser of all 1,437 on the test
digits, and the probability that a sample is closer to the training digits than a test digit.
"""

import argparse
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.data.small_sets import digits
from diffusion_jax.metrics.memorisation import memorisation
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.testing import floors
from diffusion_jax.training import objectives, optimizer, state, step

SIZES = 50, 300, 1437
STEPS = 0, 50, 100, 200, 400, 700, 1000, 1500, 2000, 3000, 4000
BATCH, COPIES = 64, 3200  # the noises of a loss, whatever the number of digits


class Curve(NamedTuple):
  """Losses of the averaged parameters after `steps`, and what exact denoisers have."""

  steps: list[int]
  train: list[float]
  test: list[float]
  memorised: float
  linear: float
  closer: float


def digits_of(split: str) -> np.ndarray:
  """Returns the digits of a split in [-1, 1], [N, 8, 8, 1]."""
  source = digits(split)
  return np.asarray(source.facts.x.encode(source.x))


def learn(size: int, steps: tuple[int, ...] = STEPS, channels: int = 256) -> Curve:
  """Trains on the first `size` digits up to the last of `steps`."""
  schedule, net = dj.CosineSchedule(), MLP(channels=channels, num_blocks=3, out_channels=1)
  network = dj.Network(network_fn(net), dj.logsnr_input)
  make = functools.partial(objectives.denoising, schedule=schedule, times=dj.uniform_times)
  adam = optax.adam(optax.cosine_decay_schedule(2e-3, steps[-1]))
  average = optimizer.ema_decay(0.995, warmup=True)
  train_step = step.make_train_step(make(network), adam, average)
  all_digits, test = digits_of('train'), digits_of('test')
  x = all_digits[:size]

  @jax.jit
  def train(now, key, length):
    def body(i, now):
      chosen, noise = jax.random.split(jax.random.fold_in(key, i))
      batch = jnp.asarray(x)[jax.random.randint(chosen, (BATCH,), 0, size)]
      return train_step(now, {'x': batch}, noise)[0]

    return jax.lax.fori_loop(0, length, body, now)

  def loss_of(network, x):
    batch = {'x': jnp.asarray(np.resize(x, (COPIES, 8, 8, 1)))}
    loss = jax.jit(make(network))
    return lambda params: float(
      loss({'network': params}, objectives.Context(), jax.random.key(7), batch)[0]
    )

  train_loss, test_loss = loss_of(network, x), loss_of(network, test)
  params = net.init(jax.random.key(0), x[:1], jnp.zeros(1))['params']
  now, curve = state.init_state({'network': params}, adam), []
  for i, (start, end) in enumerate(zip((0, *steps), steps, strict=False)):
    now = train(now, jax.random.fold_in(jax.random.key(1), i), end - start)
    params = now.ema_params['network']
    curve.append((train_loss(params), test_loss(params)))
    print(f'{size} digits, step {end}: training digits {curve[-1][0]:.4f}, test', end=' ')
    print(f'digits {curve[-1][1]:.4f}', flush=True)
  exact = floors.exact(network)
  memorised = loss_of(exact, x)(floors.fit(x).of('memorised'))
  linear = loss_of(exact, test)(floors.fit(all_digits).of('linear'))
  levels = dj.level_grid(schedule, 100)
  noise = jax.random.normal(jax.random.key(2), (360, 8, 8, 1))
  denoise = dj.clip_denoised(network.denoiser(params))
  draws = jax.jit(functools.partial(dj.sample, jax.random.key(3), denoise, dj.ddim(1.0), levels))
  flat = [np.asarray(y).reshape(len(y), -1) for y in (draws(noise), x, test)]
  closer = float(memorisation(*flat).closer.value)
  print(f'{size} digits: memorised {memorised:.4f} on training digits, linear {linear:.4f} on')
  print(f'  test digits; a sample is closer than a test digit with probability {closer:.3f}')
  of_train, of_test = ([*losses] for losses in zip(*curve, strict=True))
  return Curve([*steps], of_train, of_test, memorised, linear, closer)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(prog='python -m benchmarks.memorised')
  parser.add_argument('--sizes', default=','.join(map(str, SIZES)), help='numbers of digits')
  for number in parser.parse_args().sizes.split(','):
    learn(int(number))
