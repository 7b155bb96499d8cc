"""Classifiers of noisy images, which guide the sampling of other runs."""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.errors import UserError
from diffusion_jax.families.family import Family, Metric
from diffusion_jax.runs import results


def check_mode(config, mode):
  """Raises UserError for programs that make images."""
  if mode in ('sample', 'edit'):
    raise UserError(
      'this run is a classifier, which makes no images: name it in '
      '--config.sampling.classifier when sampling another run'
    )


def generate(config, mesh, latents):
  """Raises UserError."""
  check_mode(config, 'sample')


def accuracy(config):
  """Measures which images are classified correctly, at several levels."""
  times = results.accuracy_times(config)

  def measure(params, keys, x0, cond):
    logits = build.build_logits(config, params)
    levels = build.build_schedule(config, params)(jnp.asarray(times, x0.dtype))

    def correct_at(inputs):
      keys, level = inputs
      x = dj.q_sample(x0, draw_normal(keys, x0), level)
      return jnp.argmax(logits(x, level), axis=-1) == cond['label']

    right = jax.lax.map(correct_at, (split_key(keys, len(times)), levels))
    return {'right': right.T.astype(int), 'images': jnp.ones(len(x0), int)}

  return measure


FAMILY = Family(
  name='a classifier',
  init=build.init_params,
  objective=build.build_objective,
  makes_images=False,
  generate=generate,
  metrics={'accuracy': Metric(accuracy, results.report_accuracy)},
  check_mode=check_mode,
)
