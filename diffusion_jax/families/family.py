"""Defines a family of models for the programs: a tuple of functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
  """Describes a metric of --mode=evaluate.

  measure: config -> ((params, keys [B], x0 [B, ...], cond) -> dict of arrays
  [B], or [B, T], which are summed over the images). report: (those arrays of
  all images, config, folder) -> None writes them down.
  """

  measure: Callable
  report: Callable


class Latents(NamedTuple):
  """Holds what is diffused in place of images: functions of an autoencoder.

  encode: (autoencoder, x, keys=None) -> z, the mean of q(z | x) without keys;
  decode: (autoencoder, z) -> x; shrink_mask: bool [H, W, 1] -> [h, w, 1];
  shapes: of the autoencoder's weights, which are an argument of a compiled
  program, never a constant in it.
  """

  encode: Callable
  decode: Callable
  shrink_mask: Callable = lambda mask: mask
  shapes: Any = None


IDENTITY = Latents(
  lambda autoencoder, x, keys=None: x, lambda autoencoder, z: z
)


def accept(*_):
  """Checks nothing."""


class Family(NamedTuple):
  """Holds the functions of a family of models; `families.of` chooses one.

  name: in messages. check: config -> None raises UserError for fields that the
  family cannot have; check_mode: (config, mode) -> None for programs that it
  cannot run; check_guide: (config, workdir) -> None for another run that cannot
  guide it.
  init: config -> (key -> parameters {'network': ..., ...}); objective: (config,
  test=False) -> Objective, which for `test` is without what is random or
  penalised in training alone. Both raise UserError.
  generate: (config, mesh, latents) -> `PerImage`, (params, index [n], cond) ->
  images [n, ...] in [-1, 1]; makes_images: whether there are any.
  metrics: those of --mode=evaluate by name.
  write_more: (config, params, path) -> arrays for the npz file of the samples;
  it may write pictures beside it.
  latents: (config, workdir) -> Latents; load: (config, workdir) -> parameters
  that a run keeps beside its own; prepare: (config, workdir, latents, source,
  mesh) -> the same, written at the first start of a training; kept_shapes:
  (config, latents) -> the shapes of the same; make_encode:
  (config, latents, mesh) -> (those parameters, batch, key, i) -> batch.
  keeps: the files and folders of those parameters in a run folder.
  """

  name: str
  init: Callable
  objective: Callable
  generate: Callable
  metrics: Mapping[str, Metric]
  makes_images: bool = True
  check: Callable = accept
  check_mode: Callable = accept
  check_guide: Callable = accept
  write_more: Callable = lambda config, params, path: {}
  latents: Callable = lambda config, workdir: IDENTITY
  load: Callable = lambda config, workdir: {}
  prepare: Callable = lambda config, workdir, latents, source, mesh: {}
  kept_shapes: Callable = lambda config, latents: {}
  make_encode: Callable = lambda config, latents, mesh: (
    lambda kept, batch, key, i: batch
  )
  keeps: tuple[str, ...] = ()
