"""Reads the weights of another project's network into one of ours.

A module for each project contains its options, what they mean here, and the
names of its layers, as a `Model`. The rest is the same for all projects.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax.aliases import Json, PyTree
from diffusion_jax.interop import names
from diffusion_jax.interop.names import Entry, Layer, Params, Tensors

Sections = Json  # sections of a config, such as {'schedule': {'name': ...}}
ImageFacts = Json  # image_shape and num_classes


class Imported(NamedTuple):
  """The weights of another project, as parameters of our network.

  network: the Flax module; params: its parameters, float32. sections: sections
  of a config with this network; what they leave out has its default. facts:
  image_shape, and num_classes if the network sees the class. notes: sentences
  for the user about what was assumed. more: other branches of the parameters of
  a run, by name.
  """

  network: Any  # A module's `apply` returns a union in Flax's annotations.
  params: Params
  sections: Sections
  facts: ImageFacts
  notes: tuple[str, ...] = ()
  more: Mapping[str, Params] = types.MappingProxyType({})


class ForeignModel(NamedTuple):
  """A network of another project in terms of ours, without weights.

  layers: with their names there; layers that the network does not have are
  ignored. The other fields are as in `Imported`.
  """

  network: nn.Module
  layers: Sequence[Layer]
  sections: Sections
  facts: ImageFacts
  notes: tuple[str, ...] = ()

  def shapes(self) -> Params:
    """Returns the shapes of the parameters of our network."""
    return shapes_of(self.network, self.sections, self.facts['image_shape'])

  def table(self) -> list[Entry]:
    """Returns the names of the parameters there."""
    return names.entries(self.layers, self.shapes())

  def read(self, tensors: Tensors, ignored: Callable[[str], bool] = lambda name: False) -> Imported:
    """Returns the network with its weights; ValueError as `names.read`."""
    params = names.read(self.table(), tensors, self.shapes(), ignored)
    return Imported(self.network, params, self.sections, self.facts, self.notes)


def shapes_of(network: nn.Module, sections: Sections, shape: Sequence[int]) -> Params:
  """Returns the shapes of the parameters of a network for images of a shape.

  The sections say which inputs it has besides the image.
  """
  labels = sections.get('conditioning', {}).get('labels', False)
  return _shapes(network, tuple(shape), 'noise_input' in sections, labels)


@functools.lru_cache(maxsize=16)
def _shapes(network, shape, noise, labels):
  inputs: tuple[PyTree, ...] = (jnp.zeros((1, *shape)),)
  if noise:
    inputs += (jnp.zeros(1),)
  if labels:
    inputs += ({'label': jnp.zeros(1, jnp.int32)},)
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)['params']


def facts_of(shape: Sequence[int], num_classes: int) -> ImageFacts:
  """Returns `Imported.facts`."""
  facts: ImageFacts = {'image_shape': tuple(shape)}
  return facts | ({'num_classes': num_classes} if num_classes else {})


def eps_sections(
  schedule: Sections, noise_input: Sections, sampling: Sections, t_min: float | None = None
) -> Sections:
  """Returns the sections of a network that predicts eps, trained by L_simple.

  t_min: least of the uniform times of the training; None for discrete steps.
  """
  objective: Sections = {'name': 'denoising', 'weight': {'name': 'snr'}}
  if t_min is not None:
    objective['times'] = {'name': 'uniform', 't_min': t_min}
  return {
    'schedule': schedule,
    'noise_input': noise_input,
    'parametrization': {'name': 'eps'},
    'objective': objective,
    'sampling': sampling,
  }


def ve_as_eps(params: Params) -> Params:
  """Returns the parameters of a VE network, changed so that it predicts eps.

  The networks of Song et al. 2021 for the variance-exploding SDE return -eps at
  log(sigma) of images in [0, 1]; ours lie in [-1, 1], where sigma is twice as
  large. The outputs change sign. The sin and cos of 2 pi f (log(sigma) - log 2)
  are rotated in the first dense layer, in float64.
  """
  eps = dict(params)
  eps['conv_out'] = {name: -x for name, x in params['conv_out'].items()}
  f = np.asarray(params['noise_fourier']['frequencies'], np.float64)
  angle = (2.0 * np.pi * np.log(2.0) * f)[:, None]
  first = params['noise_dense_1']
  sines, cosines = np.split(np.asarray(first['kernel'], np.float64), 2)
  kernel = np.concatenate(
    [
      np.cos(angle) * sines + np.sin(angle) * cosines,
      np.cos(angle) * cosines - np.sin(angle) * sines,
    ]
  )
  eps['noise_dense_1'] = {**first, 'kernel': kernel.astype(np.float32)}
  return eps
