"""Training losses: an error, a weight and a distribution of times.

Every loss in use is weight(level) * |x_0 - x0_hat|^2 averaged over a
distribution of t. L_simple (weight = SNR), v-loss, min-SNR and EDM differ only
in the weight and the distribution; DDPM's Eq. 12 and 14 are also written out
literally.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.core import process
from diffusion_jax.core.arguments import (
  check_same_shape,
  mean_data_axes,
  weighted_sum,
)
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.core.levels import NoiseLevel, Schedule, clean_level, select_level
from diffusion_jax.core.parametrization import Kind, error_scale, target
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Count, Finite, NonNegative, Positive, Probability, Rate, Size

Array = jax.Array


class Weight(Protocol):
  """The weight of |x_0 - x0_hat|^2 in a loss."""

  def __call__(self, level: NoiseLevel, /) -> Array:
    """Returns the weight, of the shape of the level."""
    ...


class TimeSampler(Protocol):
  """A distribution of training levels."""

  def __call__(self, key: Key, batch_size: int, schedule: Schedule, /) -> tuple[NoiseLevel, Array]:
    """Draws the levels of a batch; returns them and their weights, [B] each."""
    ...


@checked
def simple_loss(eps: Array, eps_hat: Array) -> Array:
  """Computes |eps - eps_hat|^2, the mean over data axes, [B] (DDPM Eq. 14)."""
  check_same_shape(eps=eps, eps_hat=eps_hat)
  return mean_data_axes(jnp.square(eps - eps_hat))


@checked
def weighted_eps_loss(
  eps: Array,
  eps_hat: Array,
  level_s: NoiseLevel,
  level_t: NoiseLevel,
  variance: process.Variance = 'fixed_small',
  first: Array | NonNegative | None = None,
) -> Array:
  """Computes w_t |eps - eps_hat|^2, the L_{t-1} of DDPM Eq. 12 in nats, [B].

  w_t = beta_t^2 / (2 variance alpha_t (1 - alpha_bar_t)) in the paper's terms;
  the square is summed over data axes. eps, eps_hat: [B, ...]; levels: [] or
  [B], s not clean unless `first` is set; for the others see `reverse_variance`.
  """
  check_same_shape(eps=eps, eps_hat=eps_hat)
  s, t = level_s, level_t
  # The error in the mean of p(x_s | x_t) is this factor times the error in eps.
  factor = s.alpha * process.one_minus_snr_ratio(s, t) * t.sigma / t.alpha
  variances = process.reverse_variance(variance, s, t, None, first)
  # Between equal levels both are 0, and the limit of the weight is 0.
  variances = jnp.maximum(variances, jnp.finfo(variances.dtype).tiny)
  weight = factor**2 / (2.0 * variances)
  return weighted_sum(weight, jnp.square(eps - eps_hat))


@checked
def denoising_loss(
  kind: Kind,
  output: Array,
  x0: Array,
  eps: Array,
  level: NoiseLevel,
  weight: Weight,
  sigma_data: Positive = 0.5,
) -> Array:
  """Computes weight(level) |x_0 - x0_hat|^2, summed over data axes, [B].

  The squared error is computed in the network's own space, where float32 is
  accurate, and divided by error_scale^2: for 'eps' with `snr_weight` the result
  is `simple_loss` times the number of pixels. output: a raw prediction of
  `kind` (see `target`), [B, ...]; x0, eps: the truth, [B, ...]; level: [] or
  [B]; weight: a function of the level.
  """
  truth = target(kind, x0, eps, level, sigma_data)
  check_same_shape(output=output, target=truth)
  # For eps at zero SNR both weight and scale are 0: the ratio has a limit. A clean
  # element is known: it has no loss.
  clean = level.sigma == 0.0
  level = level._replace(
    alpha=jnp.maximum(level.alpha, 1e-12), sigma=jnp.where(clean, 1.0, level.sigma)
  )
  scale = jnp.square(error_scale(kind, level, sigma_data))
  weights = jnp.where(clean, 0.0, weight(level) / scale)
  return weighted_sum(weights, jnp.square(output - truth))


# The weights of |x_0 - x0_hat|^2.


@checked
def snr_weight(level: NoiseLevel) -> Array:
  """Returns SNR, [] or [B]: the plain loss in eps (Salimans & Ho 2022, 4)."""
  return level.snr


@checked
def truncated_snr_weight(level: NoiseLevel) -> Array:
  """Returns max(SNR, 1), [] or [B] (Salimans & Ho 2022, section 4)."""
  return jnp.maximum(level.snr, 1.0)


@checked
def v_weight(level: NoiseLevel) -> Array:
  """Returns ((alpha^2 + sigma^2) / sigma)^2, [] or [B]: the plain loss in v.

  It is SNR + 1 where alpha^2 + sigma^2 = 1 (Salimans & Ho 2022, section 4).
  """
  return jnp.square((jnp.square(level.alpha) + jnp.square(level.sigma)) / level.sigma)


@checked
def min_snr_weight(gamma: Positive = 5.0) -> Weight:
  """Makes the weight min(SNR, gamma), level -> [] or [B] (Hang et al. 2023)."""
  return lambda level: jnp.minimum(level.snr, gamma)


@checked
def edm_weight(sigma_data: Positive) -> Weight:
  """Makes the weight 1 / c_out^2, level -> [] or [B] (Karras et al. 2022).

  sigma_data: the network's; 0.5 for images in [-1, 1].
  """
  return lambda level: level.snr + 1.0 / sigma_data**2


@checked
def flow_weight(level: NoiseLevel) -> Array:
  """Returns (1 + alpha / sigma)^2, [] or [B]: the plain loss in eps - x_0.

  On `RectifiedFlowSchedule()` this is 1 / sigma^2 (Liu et al. 2022, Eq. 1).
  """
  return jnp.square(1.0 + level.alpha / level.sigma)


@checked
def min_flow_weight(maximum: Positive = 400.0) -> Weight:
  """Makes the weight min((1 + alpha / sigma)^2, maximum), level -> [] or [B].

  It is the plain loss in the velocity, with a bound near clean data. On
  `RectifiedFlowSchedule()` it is 1 / max(sigma, 0.05)^2, the weight of JiT (Li
  & He 2025), which computes the velocity from an estimate of x_0.
  """
  return lambda level: jnp.minimum(flow_weight(level), maximum)


# The distributions of t. Times are in (0, 1]: at 0, where x_t = x_0, most
# losses are 0 / 0.


@declares(reaches_clean=True)
@checked
def uniform_times(
  key: Key, batch_size: Size, schedule: Schedule, t_min: Rate = 0.0
) -> tuple[NoiseLevel, Array]:
  """Draws t ~ U(t_min, 1] independently; returns level and weight 1, [B]."""
  t = 1.0 - (1.0 - t_min) * jax.random.uniform(key, (batch_size,))
  return schedule(t), jnp.ones(batch_size)


@declares(reaches_clean=True)
@checked
def antithetic_times(key: Key, batch_size: Size, schedule: Schedule) -> tuple[NoiseLevel, Array]:
  """Draws t_i = u + i / B modulo 1 with one u ~ U(0, 1] (Kingma et al. 2021).

  Each t is uniform; together they cover (0, 1] evenly, so the loss of a batch
  has a smaller variance. Returns level [B] and weight 1 [B].
  """
  t = 1.0 - jnp.mod(jax.random.uniform(key) + jnp.arange(batch_size) / batch_size, 1.0)
  return schedule(t), jnp.ones(batch_size)


@checked
def step_times(schedule_steps: Size) -> TimeSampler:
  """Makes a sampler of t = i / T, i uniform on {1..T} (DDPM Alg. 1)."""

  def times(key, batch_size, schedule):
    i = jax.random.randint(key, (batch_size,), 1, schedule_steps + 1)
    return schedule(i / schedule_steps), jnp.ones(batch_size)

  return times


@checked
def log_normal_times(mean: Finite = -1.2, std: Positive = 1.2) -> TimeSampler:
  """Makes a sampler of log(sigma / alpha) ~ N(mean, std^2) (EDM, Table 1).

  Karras et al. 2022. The weight is 1. Log-SNRs outside the schedule's range are
  clipped to its ends.
  """

  def times(key, batch_size, schedule):
    log_sigma = mean + std * jax.random.normal(key, (batch_size,))
    return schedule.from_logsnr(-2.0 * log_sigma), jnp.ones(batch_size)

  return times


@checked
def logit_normal_times(mean: Finite = 0.0, std: Positive = 1.0) -> TimeSampler:
  """Makes a sampler of log(t / (1 - t)) ~ N(mean, std^2) with weight 1.

  Esser et al. 2024, section 3.1.
  """

  def times(key, batch_size, schedule):
    logit = mean + std * jax.random.normal(key, (batch_size,))
    return schedule(jax.nn.sigmoid(logit)), jnp.ones(batch_size)

  return times


class LevelSampler(Protocol):
  """A distribution of the training levels of elements."""

  def __call__(
    self, key: Key, shape: tuple[int, int], times: TimeSampler, schedule: Schedule, /
  ) -> tuple[NoiseLevel, Array]:
    """Draws the levels of elements by those of `times`; returns them and weights, [B, T] each."""
    ...


@checked
def independent_levels(size: Size = 1, clean: Rate = 0.1) -> LevelSampler:
  """Makes a sampler of levels that are independent for each element.

  Diffusion Forcing (Chen et al. 2024, Alg. 1). Levels and weights are of `times`, whose
  draws are assigned to elements in random order. An element is clean with the
  probability `clean`, as what is given in sampling, with weight 0, but never all of a batch.
  size: of the blocks of neighbours that share a level; ValueError if it does not divide T.
  """

  def levels(key, shape, times, schedule):
    time_key, order_key, clean_key = jax.random.split(key, 3)
    count, blocks = shape[0], shape[1] // size
    check_blocks(blocks * size == shape[1], size, shape[1])
    drawn = times(time_key, count * blocks, schedule)
    order = jax.random.permutation(order_key, count * blocks).reshape(count, blocks)
    level, weight = jax.tree.map(lambda a: a[order], drawn)
    is_clean = jax.random.bernoulli(clean_key, clean, (count, blocks))
    is_clean &= ~jnp.all(is_clean)  # a batch of clean elements has no loss
    given = clean_where(is_clean, level, weight)
    return jax.tree.map(lambda a: jnp.repeat(a, size, axis=1), given)

  return levels


@declares(one_noisy_level=True)
@checked
def subset_levels(parameters: Count = 0) -> LevelSampler:
  """Makes a sampler of one level for each example, and clean elements, of any subset.

  Simformer (Gloeckler et al. 2024). Level and weight are of `times`; a clean element, as
  what is given in sampling, has weight 0. parameters: how many of the first elements are
  a simulator's parameters, the others being what it returns; 0: columns of a table.
  `draw_subsets` has the probabilities; ValueError if all elements are parameters.
  """

  def levels(key, shape, times, schedule):
    time_key, subset_key = jax.random.split(key)
    is_clean = draw_subsets(subset_key, shape, parameters)
    drawn = times(time_key, shape[0], schedule)
    level, weight = jax.tree.map(lambda a: jnp.broadcast_to(a[:, None], shape), drawn)
    return clean_where(is_clean, level, weight)

  return levels


def draw_subsets(key: Key, shape: tuple[int, int], parameters: int) -> Array:
  """Draws which elements of examples are known, bool [B, T] (Simformer).

  One of five rules (Gloeckler et al. 2024), each as likely, draws them: none;
  all but the first `parameters`; only these; each with probability 0.3, or with
  0.7. Without parameters the two rules that name them are left out. If all elements
  are drawn, none is known. key: [] or one per example, [B]. Raises ValueError if all
  elements are parameters.
  """
  size, num = shape
  if parameters >= num:
    raise ValueError(
      f'parameters={parameters} must be less than the {num} elements of x: the '
      'others are what is observed'
    )
  first = jnp.arange(num) < parameters

  def one(key):
    kind_key, key = jax.random.split(key)
    u = jax.random.uniform(key, (num,))
    masks = [first & ~first, *([~first, first] if parameters else []), u < 0.3, u < 0.7]
    mask = jnp.stack(masks)[jax.random.randint(kind_key, (), 0, len(masks))]
    return mask & ~mask.all()

  return jax.vmap(one)(key_per_example(key, size))


def clean_where(is_clean: Array, level: NoiseLevel, weight: Array) -> tuple[NoiseLevel, Array]:
  """Returns levels and weights [B, T], the clean level with weight 0 where is_clean is True."""
  return select_level(is_clean, clean_level(), level), jnp.where(is_clean, 0.0, weight)


@checked
def levels_in_turn(size: Size = 1) -> LevelSampler:
  """Makes a sampler of one noisy block of elements, with clean data before and noise after.

  Block diffusion (Arriola et al. 2025). The level and its weight are of `times`, and
  blocks are drawn evenly; the weight stands for all blocks, and is 0 outside of the
  block, so that the mean loss is that along the path from left to right. size: of a
  block; ValueError if it does not divide T.
  """

  def levels(key, shape, times, schedule):
    time_key, turn_key = jax.random.split(key)
    blocks = shape[1] // size
    check_blocks(blocks * size == shape[1], size, shape[1])
    level, weight = times(time_key, shape[0], schedule)
    turn = (jnp.arange(shape[0]) + jax.random.randint(turn_key, (), 0, blocks)) % blocks
    place = jnp.broadcast_to(jnp.arange(shape[1])[None] // size - turn[:, None], shape)
    level = jax.tree.map(lambda a: jnp.broadcast_to(a[:, None], shape), level)
    level = select_level(place < 0, clean_level(), select_level(place > 0, schedule(1.0), level))
    return level, jnp.where(place == 0, blocks * weight[:, None], 0.0)

  return levels


def check_blocks(fits: bool, size: int, count: int) -> None:
  """Raises ValueError unless blocks of a size divide the elements."""
  if not fits:
    raise ValueError(f'blocks of size={size} do not divide {count} elements: change size')


@checked
def with_start(times: TimeSampler, probability: Probability) -> TimeSampler:
  """Makes a sampler of t = 1, with a probability and weight 1, else of `times`.

  One-step samples start at t = 1, which a continuous distribution never draws.
  ValueError for probabilities outside [0, 1].
  """

  def mixed(key, batch_size, schedule):
    key, start_key = jax.random.split(key)
    drawn = times(key, batch_size, schedule)
    first = schedule(jnp.ones(batch_size)), jnp.ones(batch_size)
    at_start = jax.random.bernoulli(start_key, probability, (batch_size,))
    return jax.tree.map(lambda a, b: jnp.where(at_start, a, b), first, drawn)

  return mixed
