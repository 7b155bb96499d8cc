"""Writes the results of --mode=evaluate: result.json, plots and lines."""

import numpy as np

import diffusion_jax as dj
from diffusion_jax.metrics import bits, plots
from diffusion_jax.runs import run_folder


def accuracy_times(config):
  """Returns the times of the accuracy: evaluation.t_min, 0.1, ..., 1."""
  return np.append(config.evaluation.t_min, np.linspace(0.1, 1.0, 10))


def report_elbo(found, config, out):
  """Writes the variational bound, its terms, and its plots."""
  shape = config.data.image_shape
  in_bits = {
    name: np.asarray(dj.bits_per_dim(found[name], shape))
    for name in ('total', 'prior', 'reconstruction', 'diffusion')
  }
  count = len(in_bits['total'])
  prior = float(in_bits['prior'].mean())
  decoder = float(in_bits['reconstruction'].mean())
  steps = in_bits['diffusion'].sum(axis=0) / count  # L_0 of VDM's z_0, L_1, ...
  terms = np.concatenate([[steps[0] + decoder], steps[1:]])
  errors = found['squared_error'].sum(axis=0) / (count * np.prod(shape))
  rate, distortion = bits.rate_distortion(prior, terms, errors)
  announce('elbo', in_bits['total'], config, out, {
    'prior': prior,
    'diffusion': float(steps.sum()),
    'reconstruction': decoder,
    'terms': terms.tolist(),
    'rate': rate.tolist(),
    'distortion': distortion.tolist(),
  })  # fmt: skip
  print(
    f'  L_T {prior:.4f} + L_1..L_T-1 {steps.sum():.4f} + L_0 {decoder:.4f}; '
    f'{out}/*.png'
  )
  plots.plot_terms(out / 'terms.png', terms)
  plots.plot_rate_distortion(out / 'rate_distortion.png', rate, distortion)


def report_vae(found, config, out):
  """Writes the bound of a VAE and its terms."""
  shape = config.data.image_shape
  total, decoder = (
    np.asarray(dj.bits_per_dim(found[name], shape))
    for name in ('total', 'reconstruction')
  )
  nats = found['kl'].sum(axis=0) / len(total)  # of each channel, or layer
  parts = np.asarray(dj.bits_per_dim(nats, shape))
  reconstruction, divergence = float(decoder.mean()), float(parts.sum())
  announce('elbo', total, config, out, {
    'reconstruction': reconstruction,
    'kl': divergence,
    'kl_parts': parts.tolist(),
  })  # fmt: skip
  if config.objective.name == 'hvae':
    layers = ', '.join(f'{x:.4f}' for x in parts)
    more = f'of z_1..z_{len(parts)}: {layers}'
  else:
    used = int((nats > 0.01).sum())
    more = f'{used} of {len(nats)} channels of z say more than 0.01 nats'
  print(f'  reconstruction {reconstruction:.4f} + KL {divergence:.4f}; {more}')


def report_iw(found, config, out):
  """Writes the importance-weighted bound."""
  values = dj.bits_per_dim(-found['log_p'], config.data.image_shape)
  more = {'num_samples': config.evaluation.num_samples}
  announce('iw', np.asarray(values), config, out, more)


def report_ode(found, config, out):
  """Writes the likelihood of the ODE."""
  c = config.data
  if config.evaluation.dequantization == 'uniform':
    values = dj.ode_bits_per_dim(found['log_p'], c.image_shape, c.num_levels)
  else:
    values = dj.bits_per_dim(-found['log_p'], c.image_shape)
  announce('ode', np.asarray(values), config, out, {})


def report_independent_pixels(found, config, out):
  """Writes the code length of independent pixels."""
  values = dj.bits_per_dim(found['nll'], config.data.image_shape)
  announce('independent_pixels', np.asarray(values), config, out, {})


def report_accuracy(found, config, out):
  """Writes the accuracy of a classifier at each time."""
  count = int(found['images'].sum())
  accuracy = found['right'].sum(axis=0) / count
  times = accuracy_times(config)
  result = {
    'metric': 'accuracy',
    'split': config.evaluation.split,
    'images': count,
    't': times.tolist(),
    'accuracy': accuracy.tolist(),
    'standard_error': np.sqrt(accuracy * (1 - accuracy) / count).tolist(),
  }
  run_folder.write_json(out / 'result.json', result)
  plots.plot_accuracy(
    out / 'accuracy.png', times, accuracy, 1 / config.data.num_classes
  )
  print(f'accuracy of {count} {config.evaluation.split} images, by t:')
  for t, value in zip(times, accuracy, strict=True):
    print(f'  {t:5.3f}  {value:6.1%}')
  print(f'{out}/result.json, accuracy.png')


def announce(metric, values, config, out, more):
  """Writes result.json and prints it in a line; values: bits/dim, [N]."""
  mean, error = bits.mean_and_error(values)
  result = {
    'metric': metric,
    'split': config.evaluation.split,
    'images': len(values),
    'bits_per_dim': mean,
    'standard_error': error,
  }
  run_folder.write_json(out / 'result.json', result | more)
  print(
    f'{metric}: {mean:.4f} +- {error:.4f} bits/dim, {len(values)} '
    f'{config.evaluation.split} images: {out / "result.json"}'
  )
