"""What constructors and parameters say of themselves: rules ask it, and keep no lists of names.

    @declares(data='levels')
    def vlb(network, ...):

A part of a user's own, `module:function`, declares in the same way. A parameter says in its
annotation what its field is for, `every: Free[int]`; see `Use`.
"""

import enum
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

# What data can be asked for: levels, as of pictures and texts; pictures, uint8
# [H, W, C]; a grid, [H, W, C] of any numbers; a context; angles, directions or rotations.
DataNeed = Literal['levels', 'pictures', 'grid', 'context', 'directions']

# Flow maps, by what their network predicts.
MapKind = Literal['average_velocity', 'consistency', 'trigflow']


class Use(enum.Flag):
  """What a field of a config is for; without a use it describes the model or its training.

  FREE: it may change between two starts of a training, as it changes no result of it.
  TRAINING: only a training reads it. USING: it says how a trained model is used. COMPUTING:
  it says how a network is computed, which the command line may change for a trained run.
  LOCAL: it names files of one machine, and is not read from a config.json, which may come
  from a stranger: compiled programs are code too. UNSAID: words about a sample or a score
  leave it out, as they say it otherwise, or it changes none. GIVEN: it says what samples are
  given, and so which ones are drawn, and not how.
  """

  FREE = enum.auto()
  TRAINING = enum.auto()
  USING = enum.auto()
  COMPUTING = enum.auto()
  LOCAL = enum.auto()
  UNSAID = enum.auto()
  GIVEN = enum.auto()


_T = TypeVar('_T')
Free = Annotated[_T, Use.FREE]
OfTraining = Annotated[_T, Use.TRAINING]
Unsaid = Annotated[_T, Use.UNSAID]
Given = Annotated[_T, Use.UNSAID | Use.GIVEN]


def use_in(annotation: object) -> Use:
  """Returns what the annotation of a parameter says of its use."""
  marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
  return functools.reduce(lambda x, y: x | y, (x for x in marks if isinstance(x, Use)), Use(0))


def without_use(annotation: Any) -> Any:
  """Returns an annotation without what it says of its use."""
  if not use_in(annotation):
    return annotation
  kind, *others = get_args(annotation)
  others = [x for x in others if not isinstance(x, Use)]
  return Annotated[(kind, *others)] if others else kind


def _nothing(config, facts):
  return ''


class Declared(NamedTuple):
  """What a constructor says of itself.

  Anything. data: what the data must have. fields: {parameter: what the data must
  have where it is set}. instead: what to take for other data. refuses: (config,
  facts of the data) -> why it cannot be used, a text for one line, or ''. training_only:
  parameters that a held-out loss must not have, as label smoothing; it has their defaults.

  An objective, of its network. estimates: it estimates x_0 given x_t, as a denoiser
  does; by default all do but flow maps. learned_variance: it predicts the variance of
  the reverse process. map_kind: it is this kind of flow map. forward_mode: it can be
  differentiated by `jax.jvp`. guidance_scale: of its guidance: the scale is an input.

  An objective, of its loss. denoises: it only denoises the data, so that exact
  denoisers have the least loss. coupled_teacher: it takes teachers that were
  trained with a coupling. lengths: it leaves out what pads examples with lengths.

  A distribution of times. reaches_clean: with t_min = 0 or without it, the density of its
  times does not vanish at t = 0, so that the mean of a growing weight may be infinite.

  A distribution of levels of elements. one_noisy_level: those of an example that are not
  clean share one, so that a network has seen no order of elements.

  The tables of docs/, and tests (`docs/tables.py`). what: what it is, in Markdown: its
  paper and equation, or a formula. needs: what it needs of the user; of a network, the arrays
  that it takes. exact_for: of a method that draws given a measurement, the data for which its
  draws are exact.

  A sampler. order: of the error of the solution of the ODE, or {its parameter order: that};
  None if it draws noise or solves to a tolerance. calls: of the network in N steps to clean
  data, an expression of N and of its parameters; '' if they are not known. takes_pairs: it
  calls a `PairedDenoiser`, and so is guidance itself. draws_noise: its steps draw noise.
  averages_ends: a step is Heun's, whose few long steps make data too wide. keeps_x: it
  computes a step from x of the step before, which nothing else may have changed. one_level:
  all elements of an example have the same level.

  A network. element_levels: its noise may be [B, N], one for each index of the first axis.

  A metric. independent_noise: it takes noise to be independent of x_0. needs_denoiser:
  it is of the network's estimates of x_0, and not of samples. lengths: it is of the valid
  elements of examples with lengths. least_draws: that it needs for each held-out pair.

  A simulator. moments: (its fields) -> mean [D] and covariance [D, D] of the D numbers of x,
  which is Gaussian; None: they are not known.

  A logger. writes_here_only: it sends nothing away.

  A section of a config. uses: what all its fields are for, besides what each says itself.
  """

  data: DataNeed | None = None
  fields: Mapping[str, DataNeed] = MappingProxyType({})
  instead: str = ''
  refuses: Callable[[Any, Any], str] = _nothing
  training_only: tuple[str, ...] = ()
  estimates: bool = True
  learned_variance: bool = False
  map_kind: MapKind | None = None
  forward_mode: bool = False
  guidance_scale: bool = False
  denoises: bool = False
  coupled_teacher: bool = False
  lengths: bool = False
  reaches_clean: bool = False
  one_noisy_level: bool = False
  what: str = ''
  needs: str = ''
  exact_for: str = ''
  order: int | Mapping[int, int] | None = None
  calls: str = ''
  takes_pairs: bool = False
  draws_noise: bool = False
  averages_ends: bool = False
  keeps_x: bool = False
  one_level: bool = False
  element_levels: bool = False
  independent_noise: bool = False
  needs_denoiser: bool = False
  least_draws: int = 1
  moments: Callable[..., Any] | None = None
  writes_here_only: bool = False
  uses: Use = Use(0)


_C = TypeVar('_C', bound=Callable)


def declares(**traits: Any) -> Callable[[_C], _C]:
  """Returns a decorator of a constructor, a function or a class; traits: of `Declared`."""
  declared = Declared(**{'estimates': 'map_kind' not in traits, **traits})

  def declare(constructor):
    named = inspect.signature(constructor).parameters if declared.training_only else {}
    for name in declared.training_only:
      if name not in named or named[name].default is inspect.Parameter.empty:
        raise ValueError(
          f'training_only: {constructor.__name__} has no parameter {name} with a default'
        )
    setattr(constructor, 'declared', declared)  # noqa: B010  # type checkers know no such member
    return constructor

  return declare


def declared_by(constructor: Callable) -> Declared:
  """Returns what a constructor declares; of a partial function, its function."""
  while isinstance(constructor, functools.partial):
    constructor = constructor.func
  return getattr(constructor, 'declared', Declared())
