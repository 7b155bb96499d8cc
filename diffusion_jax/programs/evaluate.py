"""--mode=evaluate: how likely real images are under a trained run.

Or, of a classifier, how well it reads them under noise. A metric is measured
image by image, a batch at a time; a batch that is written down is not measured
again, so an interrupted evaluation continues.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.make import choose
from diffusion_jax.core.keys import (
  draw_normal,
  fold_in_each,
  split_key,
  stream,
)
from diffusion_jax.data.images import scale
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation import bits
from diffusion_jax.families import vae
from diffusion_jax.programs import sample
from diffusion_jax.runs import processes, results, run_folder
from diffusion_jax.training import checksums
from diffusion_jax.training.sharding import (
  batch_sharding,
  replicate,
  replicated,
)


def run(config, workdir):
  """Writes evaluation/<metric>-<split>/ for each of evaluation.metrics."""
  config = run_folder.run_config(workdir, config)
  check(config)
  c = config.evaluation
  mesh = build.build_mesh(config)
  source = build.build_source(config, c.split)
  params = sample.restore(config, workdir)
  count = min(c.num_images or len(source), len(source))
  settings = describe(config, params, count)
  params = replicate(mesh, params)
  for metric in build.words(c.metrics):
    name = '-'.join(filter(None, (metric, c.split, c.name)))
    out = run_folder.prepare(str(Path(workdir) / 'evaluation' / name))
    if processes.is_first():
      (out / 'parts').mkdir(exist_ok=True)
      check_same_evaluation(out, settings)
    measure = make_measure(metric, config, mesh)
    starts = range(0, count, c.batch_size)
    paths = [out / 'parts' / f'{start:08d}.npz' for start in starts]
    # all processes measure the same parts, those that the first one misses
    missing = processes.agree([not path.exists() for path in paths])
    for i in tqdm(np.flatnonzero(missing), metric, unit='batch', disable=None):
      index = np.arange(starts[i], min(starts[i] + c.batch_size, count))
      with build.from_config('data'):
        pictures, cond = read(config, source, index)
      with build.from_config('evaluation'):  # what the metric refuses
        result = measure(params, index, pictures, cond)
      check_numbers(metric, result, index)
      if processes.is_first():
        run_folder.write_npz(paths[i], result)
    if processes.is_first():
      results.REPORTS[metric](gather(paths), config, out)


def gather(paths):
  """{name: array} of all parts, one after the other."""
  parts = []
  for path in paths:
    with np.load(path) as arrays:
      parts.append(dict(arrays))
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def check(config):
  """UserError for what cannot be measured."""
  c = config.evaluation
  if not c.metrics:
    raise UserError(
      f'config.evaluation.metrics is empty: give {" or ".join(METRICS)}'
    )
  for metric in build.words(c.metrics):
    choose(METRICS, 'evaluation', 'metrics', metric)
    if build.is_latent(config) and metric != 'independent_pixels':
      raise UserError(
        f'config.evaluation.metrics: {metric} of latents is not in bits of '
        'images; the bound of their autoencoder is measured of its own run, '
        f'{config.latent.run} (elbo, iw)'
      )
    kind, known = measured(config)
    if metric not in known:
      raise UserError(
        f'config.evaluation.metrics: this run is {kind}, and {metric} is not '
        f'measured of it: take {" or ".join(known)}'
      )


def measured(config):
  """(what the run is, the metrics that are measured of it)."""
  if build.is_classifier(config):
    return 'a classifier', ('accuracy',)
  if build.is_vae(config):
    return 'a VAE', ('elbo', 'iw', 'independent_pixels')
  return 'a diffusion model', ('elbo', 'ode', 'independent_pixels')


def check_numbers(metric, result, index):
  """UserError for NaN, before it is written down."""
  if any(np.isnan(values).any() for values in result.values()):
    ode = ': try a larger evaluation.tolerance, or t_min'
    hint = ode if metric == 'ode' else ''
    raise UserError(f'{metric} is nan on images {index[0]}..{index[-1]}{hint}')


def describe(config, params, count):
  """What the result depends on, as it comes back from JSON."""
  fields = run_folder.plain(config)
  chosen = {name: fields[name] for name in run_folder.RUN_SECTIONS}
  del chosen['data']['data_dir'], chosen['data']['num_threads']
  evaluation = fields['evaluation']
  for free in ('metrics', 'every', 'num_batches', 'name'):
    del evaluation[free]
  return {
    **chosen,
    'evaluation': evaluation,
    'sampling': {n: fields['sampling'][n] for n in ('variance', 'clip')},
    'weights': checksums.of_arrays(params),
    'images': count,
  }


def check_same_evaluation(out, settings):
  """UserError if another evaluation has begun in the folder."""
  path = out / 'settings.json'
  if any((out / 'parts').glob('*')):  # one that was refused has none
    found = json.loads(path.read_text())
    changed = run_folder.differences(found, settings)
    if changed:
      raise UserError(
        f'{out} holds another evaluation: {changed}. Delete it, or give this '
        'one a --config.evaluation.name'
      )
  run_folder.write_json(path, settings)


def read(config, source, index):
  """index [n] -> (images uint8, cond: what the network is told of them)."""
  pictures, labels = source.read(index)
  asked = config.conditioning.labels or build.is_classifier(config)
  cond = {'label': labels} if asked else {}
  if config.conditioning.text:
    length = build.text_length(config)
    cond['text'], cond['text_mask'] = encode(source.texts(index), length)
  return pictures, cond


def make_measure(metric, config, mesh):
  """(params, index [B], images, cond) -> NumPy arrays, of a part of the set.

  The metric is (params, keys [B], x0 [B, ...], cond) -> dict of [B] and of [B,
  T]; the latter are added up over the images, to [1, T]. What is measured of an
  image depends on its index, not on its batch.
  """
  measure = METRICS[metric](config)

  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def on_mesh(params, index, x0, cond):
    seed = config.evaluation.seed
    image_keys = fold_in_each(stream(seed, 'evaluation_images'), index)
    cond = with_image(config, image_keys, x0, cond)
    keys = fold_in_each(stream(seed, metric), index)
    return measure(params, keys, x0, cond)

  def apply(params, index, pictures, cond):
    # one shape for all batches; images that fill one up are dropped
    n, size = len(index), config.evaluation.batch_size
    filled = np.arange(-(-size // mesh.size) * mesh.size) % n
    x0 = scale(pictures, config.data.num_levels)
    inputs = jax.tree.map(lambda a: a[filled], (index, x0, cond))
    inputs = jax.device_put(inputs, batch_sharding(mesh))
    found = jax.device_get(on_mesh(params, *inputs))
    return {
      name: x[:n] if x.ndim == 1 else x[:n].sum(axis=0, keepdims=True)
      for name, x in found.items()
    }

  return apply


def _elbo(config):
  if build.is_vae(config):
    return vae.elbo(config)
  c = config.evaluation
  build.check_signal(config)
  decoder = build.build_decoder(config)
  num_steps = c.num_steps or build.num_steps(config)

  def measure(params, keys, x0, cond):
    return dj.variational_bound(
      keys,
      build.build_denoiser(config, params, cond),
      build.build_schedule(config, params),
      x0,
      num_steps=num_steps,
      variance=config.sampling.variance,
      steps=c.random_steps or None,
      decoder=decoder,
    )

  return measure


DEQUANTIZATIONS = {
  'uniform': lambda key, x0, level, k: (dj.dequantize(key, x0, k), 0.0),
  'gaussian': dj.gaussian_dequantize,
}


def _ode(config):
  build.check_signal(config)
  c = config.evaluation
  dequantize = choose(
    DEQUANTIZATIONS, 'evaluation', 'dequantization', c.dequantization
  )
  # clipped, the field would have kinks that no solver can pass
  config = config.copy_and_resolve_references()
  config.sampling.clip = False

  def measure(params, keys, x0, cond):
    noise_keys, probe_keys = split_key(keys, 2)
    schedule = build.build_schedule(config, params)
    x, log_weight = dequantize(
      noise_keys, x0, schedule(c.t_min), config.data.num_levels
    )
    log_p, _ = dj.log_likelihood(
      probe_keys,
      build.build_denoiser(config, params, cond),
      schedule,
      x,
      t_min=c.t_min,
      rtol=c.tolerance,
      atol=c.tolerance,
      num_probes=c.num_probes,
    )
    return {'log_p': log_p + log_weight}

  return measure


def _independent_pixels(config):
  source = build.build_source(config, 'train')
  every = range(0, len(source), 1000)
  log_prob = bits.pixel_histogram(
    (source.read(np.arange(i, min(i + 1000, len(source))))[0] for i in every),
    config.data.num_levels,
  )
  return lambda params, keys, x0, cond: {
    'nll': bits.independent_pixels_nll(x0, log_prob)
  }


def _accuracy(config):
  times = results.accuracy_times(config)

  def measure(params, keys, x0, cond):
    ask = build.build_logits(config, params)
    levels = build.build_schedule(config, params)(jnp.asarray(times, x0.dtype))

    def at(inputs):
      keys, level = inputs
      logits = ask(dj.q_sample(x0, draw_normal(keys, x0), level), level)
      return jnp.argmax(logits, axis=-1) == cond['label']

    right = jax.lax.map(at, (split_key(keys, len(times)), levels))
    return {'right': right.T.astype(int), 'images': jnp.ones(len(x0), int)}

  return measure


def with_image(config, keys, x0, cond):
  """cond, also the image that a network is told of: bits are those given it."""
  make = build.build_image_condition(config)
  if make is None:
    return cond
  return cond | {'image': make(keys, x0)}


METRICS = {
  'elbo': _elbo,
  'ode': _ode,
  'independent_pixels': _independent_pixels,
  'iw': vae.importance_weighted,
  'accuracy': _accuracy,
}
