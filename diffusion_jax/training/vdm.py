"""The variational bound in bits per dimension, also of a learned schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.elbo import categorical_nll, prior_kl
from diffusion_jax.core.levels import Schedule, check_schedule
from diffusion_jax.core.losses import antithetic_times
from diffusion_jax.core.normal import bits_per_dim
from diffusion_jax.core.process import q_sample
from diffusion_jax.core.vdm import vdm_weight
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Count
from diffusion_jax.training.objectives import Objective, draw_inputs, mean_loss


@declares(
  what='the bound with a learned schedule (Kingma et al. 2021, Eq. 11; [VDM](networks.md#vdm))',
  denoises=True,
)
def vdm(
  network: Network,
  make_schedule: Callable[[Params], Schedule],
  *,
  num_levels: int,
  schedule: Schedule | None = None,
  num_steps: Count = 0,
) -> Objective:
  """Makes the variational bound, bits per dim (Kingma et al. 2021, Eq. 11).

  It is the sum of prior loss, diffusion loss at one antithetic time per image
  and reconstruction loss, for num_steps steps; 0: in continuous time.
  make_schedule(params) is a schedule with 0 < SNR < inf at both ends; it is
  learned if it depends on params. schedule: what it is otherwise, for which
  ValueError says if this does not hold. Images have num_levels grey levels.
  params: {'network': ..., 'schedule': ...}. Metrics: loss, also per quarter of t, its
  three parts, and the log-SNRs at t = 0 and 1.
  """
  network.check_options('vdm')
  if schedule is not None:
    _check_ends(schedule)

  def draw(key, batch, context):
    # t is drawn here and its level is taken in the loss, where gradients reach a learned schedule.
    key, eps_key = jax.random.split(key)
    inputs, keys = draw_inputs(key, batch, lambda t: t, network, antithetic_times)
    return (inputs, jax.random.normal(eps_key, batch['x'].shape)), keys

  def loss(params, context, inputs, keys):
    schedule = make_schedule(params)
    inputs, eps_0 = inputs
    x0, eps, t = inputs.x0, inputs.eps, inputs.level
    if num_steps:  # the end of the step that contains t
      t = jnp.ceil(t * num_steps) / num_steps
    level, first, last = schedule(t), schedule(0.0), schedule(1.0)
    xt = q_sample(x0, eps, level)
    output = network.output(params['network'], xt, level, inputs.cond, keys[0])
    error = network.denoising_loss(output, x0, eps, level, vdm_weight(schedule, num_steps or None))
    nats = {
      'prior': prior_kl(x0, last),
      'diffusion': error,  # antithetic times have the weight 1
      'reconstruction': categorical_nll(x0, q_sample(x0, eps_0, first), first, num_levels),
    }
    parts = {name: bits_per_dim(n, x0.shape[1:]) for name, n in nats.items()}
    losses = jnp.asarray(sum(parts.values()))
    return mean_loss(losses, level.t, **parts, logsnr_0=first.logsnr, logsnr_1=last.logsnr)

  return Objective(draw, loss)


def _check_ends(schedule):
  check_schedule(schedule)
  ends = [float(schedule(t).snr) for t in (0.0, 1.0)]
  if not 0.0 < min(ends) <= max(ends) < float('inf'):
    raise ValueError(
      "vdm needs noise at t = 0 and signal at t = 1, where this schedule's "
      f'SNRs are {ends[0]:g} and {ends[1]:g}: take a learned one, for '
      'instance'
    )
