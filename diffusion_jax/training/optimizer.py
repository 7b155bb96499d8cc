"""Optimizers of the diffusion papers, learning-rate schedules, EMA decay."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.ranges import Count, NonNegative, Positive, Rate, Size
from diffusion_jax.training import power_ema

Array = jax.Array


def learning_rate_schedule(
  peak: float,
  warmup_steps: int = 0,
  decay: str = 'constant',
  decay_steps: int = 0,
) -> optax.Schedule:
  """Returns step -> learning rate: linear from 0 to `peak`, then a `decay`.

  'constant'; 'linear' and 'cosine' to 0 at step decay_steps; 'inverse_sqrt',
  peak / sqrt(max(step / decay_steps, 1)) (Karras et al. 2024, EDM2).
  """
  if decay not in DECAYS:
    raise ValueError(f'decay {decay!r} is not one of {", ".join(DECAYS)}')
  if decay != 'constant' and decay_steps < 1:
    raise ValueError(f'a decay of kind {decay!r} needs its number of steps')
  if decay in ('linear', 'cosine') and decay_steps <= warmup_steps:
    raise ValueError(
      f'the decay ends at step {decay_steps}, before the warm-up of '
      f'{warmup_steps} steps does: give more steps, or a shorter warm-up'
    )
  warmup = optax.linear_schedule(0.0, peak, warmup_steps)
  after = DECAYS[decay](peak, warmup_steps, decay_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


def _inverse_sqrt(peak, start, scale):
  # The argument counts from the end of the warm-up.
  return lambda i: peak / jnp.sqrt(jnp.maximum((start + i) / scale, 1.0))


DECAYS = {
  'constant': lambda peak, start, end: optax.constant_schedule(peak),
  'linear': lambda peak, start, end: optax.linear_schedule(
    peak, 0.0, end - start
  ),
  'cosine': lambda peak, start, end: optax.cosine_decay_schedule(
    peak, end - start
  ),
  'inverse_sqrt': _inverse_sqrt,
}


def make_optimizer(
  learning_rate: optax.ScalarOrSchedule,
  *,
  kind: str = 'adamw',
  clip_norm: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  weight_decay_mask: Callable[[Any], Any] | None = None,
  repair_gradients: bool = False,
) -> optax.GradientTransformation:
  """Returns an optimizer of optax, after clipping to a norm if clip_norm > 0.

  kind: one of OPTIMIZERS, 'adam', 'adamw' (the same without weight_decay),
  'radam' or 'muon'; see `muon`. weight_decay > 0 is decoupled (Loshchilov &
  Hutter 2019), where the pytree weight_decay_mask(params) is True: `kernels`
  (also for None), `not_biases` or `all_parameters`. repair_gradients comes
  before all else: see `repair`. Raises ValueError for what a kind cannot have.
  """
  if kind not in OPTIMIZERS:
    raise ValueError(f'kind {kind!r} is not one of {", ".join(OPTIMIZERS)}')
  moments: dict[str, Any] = dict(b1=b1, b2=b2, eps=eps)
  mask = weight_decay_mask or kernels
  optimizer = OPTIMIZERS[kind](learning_rate, weight_decay, mask, moments)
  before = [optax.stateless(lambda grads, _: repair(grads))]
  before = before if repair_gradients else []
  if clip_norm:
    before.append(optax.clip_by_global_norm(clip_norm))
  return optax.chain(*before, optimizer) if before else optimizer


def optimizer_and_rate(
  total_steps: int,
  *,
  kind: str = 'adamw',
  learning_rate: Positive = 2e-4,
  warmup_steps: Count = 0,
  decay: Literal['constant', 'linear', 'cosine', 'inverse_sqrt'] = 'constant',
  decay_steps: Size | None = None,
  clip_norm: NonNegative = 1.0,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Positive = 1e-8,
  weight_decay: NonNegative = 0.0,
  weight_decay_mask: Literal['kernels', 'not_biases', 'all'] = 'kernels',
  repair_gradients: bool = False,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns an optimizer of optax, and step -> learning rate.

  The rate climbs from 0 over warmup_steps, then decays: linear and cosine to 0
  at decay_steps (None: the end of the training), inverse_sqrt from there on.
  clip_norm: of all gradients together, 0: none. weight_decay is decoupled, as
  AdamW's; of kernels, of all but biases (VDM), or of all. repair_gradients
  replaces nan by 0 and inf by 1e5, as EDM.
  """
  steps = total_steps if decay_steps is None else decay_steps
  rate = learning_rate_schedule(learning_rate, warmup_steps, decay, steps)
  optimizer = make_optimizer(
    rate,
    kind=kind,
    clip_norm=clip_norm,
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    weight_decay_mask=WEIGHT_DECAY_MASKS[weight_decay_mask],
    repair_gradients=repair_gradients,
  )
  return optimizer, rate


def _adam(learning_rate, weight_decay, mask, moments):
  if weight_decay:
    raise ValueError(
      f"'adam' has no weight decay, and weight_decay is {weight_decay:g}: take "
      "'adamw'"
    )
  return optax.adam(learning_rate, **moments)


def _adamw(learning_rate, weight_decay, mask, moments):
  if not weight_decay:
    return optax.adam(learning_rate, **moments)
  return optax.adamw(
    learning_rate, weight_decay=weight_decay, mask=mask, **moments
  )


def _radam(learning_rate, weight_decay, mask, moments):
  if not weight_decay:
    return optax.radam(learning_rate, **moments)
  return optax.chain(
    optax.scale_by_radam(**moments),
    optax.add_decayed_weights(weight_decay, mask),
    optax.scale_by_learning_rate(learning_rate),
  )


def muon(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float,
  mask: Callable[[Any], Any],
  moments: dict[str, Any],
) -> optax.GradientTransformation:
  """Returns Muon (Jordan et al. 2024) for kernels, and Adam for the rest.

  The momentum, 0.95, of each matrix is replaced by the nearest matrix with
  orthogonal rows or columns, times 0.2 sqrt(max(rows, columns)), which makes
  steps as large as those of Adam (Liu et al. 2025), both in Nesterov's form. A
  kernel [h, w, in, out] is a matrix of h w in rows; kernels of scanned blocks,
  [depth, in, out], are depth matrices. `moments` are Adam's. Only kernels
  decay: ValueError for another mask.
  """
  if weight_decay and mask is not kernels:
    raise ValueError("'muon' decays kernels alone: take that weight_decay_mask")
  return optax.contrib.muon(
    learning_rate,
    weight_decay=weight_decay,
    adam_b1=moments['b1'],
    adam_b2=moments['b2'],
    eps=moments['eps'],
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,
  )


def _matrices(params):
  # Returns which axes of a kernel are rows and columns; None for the others.
  def axes(is_kernel, leaf):
    if not is_kernel or leaf.ndim < 2:
      return None
    first = 1 if leaf.ndim == 3 else 0
    rows = tuple(range(first, leaf.ndim - 1))
    return optax.contrib.MuonDimensionNumbers(rows, leaf.ndim - 1)

  return jax.tree.map(axes, kernels(params), params)


# Each is called with (learning_rate, weight_decay, mask, moments of Adam).
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'adam': _adam,
  'adamw': _adamw,
  'radam': _radam,
  'muon': muon,
}


def repair(grads: Any) -> Any:
  """Returns NaN -> 0 and +-inf -> +-1e5, as EDM (Karras et al. 2022)."""
  finite = functools.partial(jnp.nan_to_num, nan=0.0, posinf=1e5, neginf=-1e5)
  return jax.tree.map(finite, grads)


def kernels(params: Any) -> Any:
  """Returns True at the weights of dense layers and convolutions, else False.

  Biases, norms and embeddings are no kernels.
  """
  return _mask(params, lambda names: names[-1] == 'kernel')


def not_biases(params: Any) -> Any:
  """Returns False at biases, else True, as VDM's release (Kingma et al. 2021).

  So the scales of group norms and embeddings are decayed. Of a learned schedule
  both parameters of `LinearGamma` are, and of `MonotoneGamma` all but the two
  biases, as there. Fixed random frequencies are not.
  """

  def is_decayed(names):
    # The release calls the parameters of a line w and b, not kernel and bias.
    of_line = names == ['schedule', 'bias']
    return of_line or not names[-1].endswith('bias')

  return _mask(params, is_decayed)


def all_parameters(params: Any) -> Any:
  """Returns True except at fixed random frequencies, as PyTorch's AdamW."""
  return _mask(params, lambda names: True)


def _mask(params, is_decayed):
  def at(path, _):
    names = [str(getattr(key, 'key', key)) for key in path]
    # Decay would move those of `FourierEmbedding`, which no gradient reaches.
    fixed = names[-1] in ('frequencies', 'phases')
    return not fixed and is_decayed(names)

  return jax.tree_util.tree_map_with_path(at, params)


WEIGHT_DECAY_MASKS = {
  'kernels': kernels,
  'not_biases': not_biases,
  'all': all_parameters,
}


def ema_decay(decay: float, warmup: bool = False) -> Callable[[Array], Array]:
  """Returns step (0 at the first update) -> rate of the EMA, 1 - decay.

  The average moves by rate * (params - average). The function returns the rate
  because a decay close to 1 has few digits of 1 - decay in float32. The decay
  is constant, except that the average starts at the parameters after the first
  update (Ho et al. 2020). With `warmup` it is min(decay, (1 + step) / (10 +
  step)), for runs too short for the start to fade otherwise.
  """

  def at_step(step):
    if warmup:
      return jnp.maximum(1.0 - decay, 9.0 / (10.0 + step))
    return jnp.where(step < 1, 1.0, 1.0 - decay)

  return at_step


def ema_half_life(
  half_life: float, batch_size: int, rampup: float = 0.0
) -> Callable[[Array], Array]:
  """Returns the rate, as `ema_decay`, of decay 0.5^(batch_size / half_life).

  half_life: in images. With `rampup` it is at most that part of the images seen
  before the update, as EDM's 0.05 (Karras et al. 2022). ValueError for a
  half-life that is not positive.
  """
  if not half_life > 0.0:
    raise ValueError(f'a half-life of {half_life} images: it must be positive')
  if not rampup:
    return ema_decay(0.5 ** (batch_size / half_life))

  def at_step(step):
    seen = jnp.asarray(step, float) * batch_size
    images = jnp.minimum(half_life, rampup * seen)
    halvings = batch_size / jnp.maximum(images, 1e-8)
    return -jnp.expm1(-math.log(2.0) * halvings)

  return at_step


def ema_power(
  sigma_rel: float, more_steps: float = 0.0
) -> Callable[[Array], Array]:
  """Returns the rate, as `ema_decay`, of decay (1 - 1 / t)^(gamma + 1).

  This is the average by a power of time whose relative width is sigma_rel
  (Karras et al. 2024, EDM2; see `power_ema`). The first decay is 0, so nothing
  of the first parameters is left. t = step + 1 + more_steps is the number of
  images in batches of this size: more_steps != 0 after steps of another one.
  ValueError for a width outside (0, 1 / sqrt(12)].
  """
  power = power_ema.exponent(sigma_rel) + 1.0

  def at_step(step):
    t = step + (1.0 + more_steps)
    return -jnp.expm1(power * jnp.log1p(-1.0 / t))

  return at_step
