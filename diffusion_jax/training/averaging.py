"""Averages of the parameters that a training keeps, and their snapshots."""

from typing import Annotated, NamedTuple

from diffusion_jax.declared import Free
from diffusion_jax.ranges import NonNegative, Positive, Rate, Several, Size, within
from diffusion_jax.training import power_ema
from diffusion_jax.training.optimizer import EmaRate, ema_decay, ema_half_life, ema_power

# Up to 1 / sqrt(12), the plain mean.
Width = Annotated[float, within('(0, 0.288675]')]


class Averages(NamedTuple):
  """Holds the rates of averages, step -> 1 - decay.

  rate: of the average that previews, held-out losses and samples use; more: of
  the others, by name. width: the name of the first one in snapshots, which are
  written every `every` steps, 0 for never; `keep` of them stay.
  """

  rate: EmaRate
  more: dict[str, EmaRate]
  width: str = ''
  every: int = 0
  keep: int = 0


def decay(decay: Rate = 0.9999, warmup: bool = True, more: tuple[Rate, ...] = ()) -> Averages:
  """Averages with a constant decay.

  Raises ValueError for a decay that is in `more` twice.

  Args:
    warmup: the decay is at most (1 + step) / (10 + step).
    more: decays of further averages, for sampling.weights.decay.
  """
  if len({*more}) < len(more):
    raise ValueError(f'more={more} must be different decays')
  others = {power_ema.decay_name(x): ema_decay(x, warmup) for x in more}
  return Averages(ema_decay(decay, warmup), others)


def half_life(batch_size: int, images: Positive, rampup: NonNegative = 0.0) -> Averages:
  """Averages with a half-life in images (EDM, Karras et al. 2022).

  Args:
    rampup: the half-life is at most this part of the images so far; 0: no limit.
  """
  return Averages(ema_half_life(images, batch_size, rampup), {})


def powers(
  total_steps: int,
  widths: tuple[Width, ...],
  every: Free[Size | None] = None,
  keep: Free[Several] = 32,
  more_steps: float = 0.0,
) -> Averages:
  """Averages by powers of time (EDM2, Karras et al. 2024).

  Any other width can be made of their snapshots afterwards (docs/training.md).
  more_steps: see `optimizer.ema_power`. Raises ValueError for a width that is
  there twice, and without widths.

  Args:
    widths: relative widths, such as 0.05,0.10; previews and samples use the
      first.
    every: steps between snapshots; None: num_steps / 32.
    keep: the largest number of snapshots besides the latest; with more, the
      interval doubles.
  """
  if not widths or len({*widths}) < len(widths):
    raise ValueError(f'widths={widths} must be one or several different widths')
  rates = {power_ema.width_name(x): ema_power(x, more_steps) for x in widths}
  first, *others = rates
  more = {name: rates[name] for name in others}
  return Averages(rates[first], more, first, every or max(total_steps // 32, 1), keep)
