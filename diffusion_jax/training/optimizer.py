"""Optimizers of the diffusion papers, learning-rate schedules, EMA rates."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.aliases import Fused, Params, PyTree
from diffusion_jax.core.checked import checked
from diffusion_jax.ranges import Count, NonNegative, Positive, Rate, Size
from diffusion_jax.runtime.sharding import MIN_SIZE
from diffusion_jax.training import power_ema
from diffusion_jax.training.lora import A

Array = jax.Array
EmaRate = Callable[[Array], Array]
Decay = Literal['constant', 'linear', 'cosine', 'inverse_sqrt']
ENDING = 'linear', 'cosine'  # decays to 0


@checked
def learning_rate_schedule(
  peak: float, warmup_steps: int = 0, decay: Decay = 'constant', decay_steps: int = 0
) -> optax.Schedule:
  """Returns step -> learning rate: linear from 0 to `peak`, then a `decay`.

  'constant'; 'linear' and 'cosine' to 0 at step decay_steps, above 0 before it;
  'inverse_sqrt', peak / sqrt(max(step / decay_steps, 1)) (Karras et al. 2024,
  EDM2). Raises ValueError for a decay that ends before the warm-up.
  """
  least = warmup_steps if decay in ENDING else 0
  if decay != 'constant' and decay_steps <= least:
    raise ValueError(
      f'decay_steps of decay {decay!r} must be larger than warmup_steps={least}, got {decay_steps}'
    )

  def left(step):
    # The part of the decay after `step`. 1 + cos(pi step / decay_steps), as
    # optax has it, is 0 in float32 long before the end, and its line below 0.
    steps = decay_steps - warmup_steps
    return jnp.clip(decay_steps - step, 0, steps) / steps

  after = {
    'constant': lambda step: 1.0,
    'linear': left,
    'cosine': lambda step: jnp.sin(0.5 * math.pi * left(step)) ** 2,
    'inverse_sqrt': lambda step: jnp.sqrt(jnp.minimum(decay_steps / jnp.maximum(step, 1), 1.0)),
  }[decay]

  def rate(step):
    return peak * jnp.where(step < warmup_steps, step / max(warmup_steps, 1), after(step))

  return rate


def warmup_within(warmup_steps: int, decay: Decay, total_steps: int) -> int:
  """Returns the warm-up before a decay that ends with the training.

  It is a tenth of a training that is no longer than its warm-up.
  """
  too_long = decay in ENDING and warmup_steps >= total_steps
  return total_steps // 10 if too_long else warmup_steps


@checked
def optimizer_and_rate(
  total_steps: int,
  *,
  scale: Callable[..., optax.GradientTransformation] = optax.scale_by_adam,
  learning_rate: Positive = 2e-4,
  warmup_steps: Count = 0,
  decay: Decay = 'constant',
  decay_steps: Size | None = None,
  clip_norm: NonNegative = 1.0,
  b1: Rate = 0.9,
  b2: Rate = 0.999,
  eps: Positive = 1e-8,
  weight_decay: NonNegative = 0.0,
  weight_decay_mask: Literal['kernels', 'not_biases', 'all'] = 'kernels',
  repair_gradients: bool = False,
  fused: Fused | None = None,
  stacked: Sequence[str] | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns an optimizer of optax with the rate 1, and step -> learning rate.

  The rate multiplies updates (`make_train_step`). It climbs from 0 over
  warmup_steps, then decays: linear and cosine to 0 at decay_steps (None: the
  end of the training, see `warmup_within`), inverse_sqrt from there on. clip_norm: of all gradients
  together, 0 for no clipping. weight_decay is decoupled, as AdamW's; of
  kernels, of all but biases (VDM), or of all. repair_gradients replaces nan by
  0 and inf by 1e5, as EDM. scale(b1=, b2=, eps=): the rule of the updates;
  fused and stacked: arguments of `scale_by_muon`.
  """
  steps = decay_steps
  if steps is None:
    steps, warmup_steps = total_steps, warmup_within(warmup_steps, decay, total_steps)
  rate = learning_rate_schedule(learning_rate, warmup_steps, decay, steps)
  if scale is scale_by_muon:
    scale = functools.partial(scale, fused=fused or {}, stacked=stacked)
  before, after = [], []
  if repair_gradients:
    before.append(optax.stateless(lambda grads, _: repair(grads)))
  if clip_norm:
    before.append(optax.stateless(lambda grads, _: clip(grads, clip_norm)))
  if weight_decay:
    mask = WEIGHT_DECAY_MASKS[weight_decay_mask]
    after.append(optax.add_decayed_weights(weight_decay, mask))
  optimizer = optax.chain(scale(b1=b1, b2=b2, eps=eps), *after, optax.scale_by_learning_rate(1.0))
  return (optax.chain(*before, optimizer) if before else optimizer), rate


def scale_by_muon(
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  *,
  fused: Fused,
  stacked: Sequence[str] | None = None,
) -> optax.GradientTransformation:
  """Returns Muon (Jordan et al. 2024) for kernels, and Adam for the rest.

  The momentum, 0.95, of each matrix is replaced by the nearest matrix with
  orthogonal rows or columns, times 0.2 sqrt(max(rows, columns)), which makes
  steps as large as Adam's (Liu et al. 2025), both in Nesterov's form. A kernel
  [k, in, out] or [h, w, in, out] is a matrix with all but `out` in rows. fused: the
  layers whose kernels are several matrices, of which each is orthogonalised for
  itself; stacked: the beginnings of the names of modules whose parameters have one
  more first axis, of blocks in a scan. They are a network's `fused` and `stacked`.
  b1, b2 and eps are Adam's. Raises ValueError for a kernel of three axes without `stacked`.
  """

  def axes(path, leaf):  # rows and columns; None for other parameters
    *layer, name = _names(path)
    sizes, axis = _layout(layer, fused) or ((-1,), None)
    rank = leaf.ndim + 1 - len(sizes)  # of the kernel, before `separate`
    if name == 'kernel' and rank == 3 and stacked is None:
      raise ValueError(
        f'muon: the kernel {"/".join(layer)} {list(leaf.shape)} may belong to a convolution, or '
        'to the blocks of a scan: the network must say by its attribute `stacked` with which '
        "letters the names of scans begin, such as ('blocks_',), or () without a scan"
      )
    first = any(module.startswith(tuple(stacked or ())) for module in layer)
    if name != 'kernel' or rank < first + 2:
      return None
    rows = tuple(range(first, rank - 1))
    columns = tuple(rank - 1 + i for i in range(len(sizes)) if i != axis)
    return optax.contrib.MuonDimensionNumbers(rows, columns)

  def separate(path, leaf):
    *layer, name = _names(path)
    layout = _layout(layer, fused)
    if layout is None or name != 'kernel':
      return leaf
    return leaf.reshape(*leaf.shape[:-1], *layout[0])

  numbers = functools.partial(jax.tree_util.tree_map_with_path, axes)
  separated = functools.partial(jax.tree_util.tree_map_with_path, separate)
  # Optax's descends; the sign is the caller's, as for scale_by_adam.
  muon = optax.contrib.muon(
    -1.0, adam_b1=b1, adam_b2=b2, eps=eps, consistent_rms=0.2, muon_weight_dimension_numbers=numbers
  )

  def update(updates, state, params=None):
    params = None if params is None else separated(params)
    orthogonal, state = muon.update(separated(updates), state, params)
    return jax.tree.map(lambda x, like: x.reshape(like.shape), orthogonal, updates), state

  return optax.GradientTransformation(lambda params: muon.init(separated(params)), update)


def _layout(layer: Sequence[str], fused: Fused | None) -> tuple[tuple[int, ...], int] | None:
  if A in layer:  # The columns of this matrix of an adapter are no outputs of the layer.
    return None
  path = '/'.join(layer)
  found = (layout for ending, layout in (fused or {}).items() if path.endswith(ending))
  return next(found, None)


def global_norm(grads: Params) -> Array:
  """Returns the norm of all leaves together, [].

  Small leaves, which FSDP does not split, are joined before they are squared:
  on a GPU one sum instead of hundreds.
  """
  leaves = jax.tree.leaves(grads)
  small = [x.reshape(-1) for x in leaves if x.size < MIN_SIZE]
  large = [x for x in leaves if x.size >= MIN_SIZE]
  joined = [jnp.concatenate(small)] if small else []
  return optax.tree.norm(joined + large)


def clip(grads: Params, max_norm: float) -> Params:
  """Returns grads times min(1, max_norm / norm), with their `global_norm`."""
  norm = global_norm(grads)
  scale = jnp.where(norm < max_norm, 1.0, max_norm / norm)
  return jax.tree.map(lambda x: scale * x, grads)


def repair(grads: Params) -> Params:
  """Replaces NaN by 0 and +-inf by +-1e5, as EDM (Karras et al. 2022)."""
  finite = functools.partial(jnp.nan_to_num, nan=0.0, posinf=1e5, neginf=-1e5)
  return jax.tree.map(finite, grads)


def kernels(params: Params) -> PyTree:
  """Returns True for the weights of dense layers and convolutions, else False.

  Biases, norms and embeddings are not kernels.
  """
  return _mask(params, lambda names: names[-1] == 'kernel')


def not_biases(params: Params) -> PyTree:
  """Returns False for biases, else True, as VDM's release (Kingma et al. 2021).

  So the scales of group norms and embeddings decay. Of a learned schedule, both
  parameters of `LinearGamma` decay, and all of `MonotoneGamma` but its two
  biases, as in the release. Fixed random frequencies do not decay.
  """

  def is_decayed(names):
    # The release calls the parameters of a line w and b, not kernel and bias.
    of_line = names == ['schedule', 'bias']
    return of_line or not names[-1].endswith('bias')

  return _mask(params, is_decayed)


def all_parameters(params: Params) -> PyTree:
  """Returns True except for fixed random frequencies, as PyTorch's AdamW."""
  return _mask(params, lambda names: True)


def _mask(params, is_decayed):
  def at(path, _):
    names = _names(path)
    # Decay would change `FourierEmbedding`, which gets no gradient.
    fixed = names[-1] in ('frequencies', 'phases')
    return not fixed and is_decayed(names)

  return jax.tree_util.tree_map_with_path(at, params)


def _names(path):
  return jax.tree_util.keystr(path, simple=True, separator='/').split('/')


WEIGHT_DECAY_MASKS: Mapping[str, Callable[[Params], PyTree]] = {
  'kernels': kernels,
  'not_biases': not_biases,
  'all': all_parameters,
}

_NO_MATRICES: Mapping[str, Any] = {'fused': None, 'stacked': None}
# Constructors with the parameters of `optimizer_and_rate` that apply to them.
OPTIMIZERS = {
  'adamw': functools.partial(optimizer_and_rate, scale=optax.scale_by_adam, **_NO_MATRICES),
  'adam': functools.partial(
    optimizer_and_rate,
    scale=optax.scale_by_adam,
    **_NO_MATRICES,
    weight_decay=0.0,
    weight_decay_mask='kernels',
  ),
  'radam': functools.partial(optimizer_and_rate, scale=optax.scale_by_radam, **_NO_MATRICES),
  'muon': functools.partial(optimizer_and_rate, scale=scale_by_muon, weight_decay_mask='kernels'),
}


def ema_decay(decay: float, warmup: bool = False) -> EmaRate:
  """Returns step (0 at the first update) -> rate of the EMA, 1 - decay.

  The average moves by rate * (params - average). The function returns the rate
  because a decay close to 1 has few digits of 1 - decay in float32. The decay
  is constant, but the average starts at the parameters after the first update
  (Ho et al. 2020). With `warmup` it is min(decay, (1 + step) / (10 + step)),
  for runs too short to forget the start otherwise.
  """

  def at_step(step):
    if warmup:
      return jnp.maximum(1.0 - decay, 9.0 / (10.0 + step))
    return jnp.where(step < 1, 1.0, 1.0 - decay)

  return at_step


@checked
def ema_half_life(half_life: Positive, batch_size: Size, rampup: Rate = 0.0) -> EmaRate:
  """Returns the rate, as `ema_decay`, of decay 0.5^(batch_size / half_life).

  half_life: in images. With `rampup` it is at most this fraction of the images
  before the update, such as EDM's 0.05 (Karras et al. 2022). Raises ValueError
  for a half-life that is not positive.
  """
  if not rampup:
    return ema_decay(0.5 ** (batch_size / half_life))

  def at_step(step):
    seen = jnp.asarray(step, float) * batch_size
    images = jnp.minimum(half_life, rampup * seen)
    halvings = batch_size / jnp.maximum(images, 1e-8)
    return -jnp.expm1(-math.log(2.0) * halvings)

  return at_step


def ema_power(sigma_rel: float, more_steps: float = 0.0) -> EmaRate:
  """Returns the rate, as `ema_decay`, of decay (1 - 1 / t)^(gamma + 1).

  This is the average by a power of time whose relative width is sigma_rel
  (Karras et al. 2024, EDM2; see `power_ema`). The first decay is 0, so that the
  first parameters have no weight. t = step + 1 + more_steps is the number of
  images in batches of this size; more_steps != 0 after batches of another size.
  Raises ValueError for a width outside (0, 1 / sqrt(12)].
  """
  power = power_ema.exponent(sigma_rel) + 1.0

  def at_step(step):
    t = step + (1.0 + more_steps)
    return -jnp.expm1(power * jnp.log1p(-1.0 / t))

  return at_step
