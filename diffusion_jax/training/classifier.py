"""The objective of classifiers of noisy images, for guidance."""

import jax
import jax.numpy as jnp

from diffusion_jax.core.levels import Schedule, check_schedule
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.core.process import q_sample
from diffusion_jax.declared import declares
from diffusion_jax.training.objectives import Network, Objective, by_quarter, means

Array = jax.Array


@declares(
  what='−log p(y | x_t) (Dhariwal & Nichol 2021, section 4; '
  '[guidance](guidance.md#with-a-classifier))',
  data='pictures',
  estimates=False,
)
def classifier(network: Network, schedule: Schedule, *, times: TimeSampler) -> Objective:
  """Makes the loss -log p(y | x_t) in nats (Dhariwal & Nichol 2021, section 4).

  The network returns logits [B, K]; its cond is {}. times draws the levels; its
  weights are not used. The parametrization determines the scale of the input,
  as for a denoiser. params: {'network': ...}. Metrics: loss; accuracy, also per
  quarter of t. Raises ValueError for a batch without labels.
  """
  network.check_options('classifier')

  def draw(key, batch, context):
    if 'label' not in batch:
      raise ValueError("a classifier needs batch['label']")
    check_schedule(schedule)
    x0 = batch['x']
    time_key, eps_key, dropout_key = jax.random.split(key, 3)
    level, _ = times(time_key, len(x0), schedule)
    eps = jax.random.normal(eps_key, x0.shape)
    return (x0, batch['label'], level, eps), dropout_key

  def loss(params, context, inputs, key):
    x0, label, level, eps = inputs
    xt = q_sample(x0, eps, level)
    logits = network.output(params['network'], xt, level, {}, key)
    right = (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
    metrics = means(loss=-label_log_prob(logits, label), accuracy=right)
    loss = metrics['loss'].total
    return loss, (metrics | by_quarter(right, level.t, name='accuracy'), ())

  return Objective(draw, loss)


def label_log_prob(logits: Array, label: Array) -> Array:
  """Returns log p(y), [B], for logits [B, K] and labels [B]."""
  log_p = jax.nn.log_softmax(logits, axis=-1)
  return jnp.take_along_axis(log_p, label[:, None], axis=-1)[:, 0]
