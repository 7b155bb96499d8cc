"""Reads the weights of a network of another project into one of ours.

A module for each project says what its options are and what they mean here, and
how its layers are named, as a `Model`; the rest is done here.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.interop import layers, names
from diffusion_jax.interop.layers import Layer
from diffusion_jax.interop.names import Entry


class Imported(NamedTuple):
  """The weights of another project, as parameters of a network of ours.

  network: the Flax module; params: its parameters, float32. sections: of a
  config with this network, such as {'schedule': {'name': 'linear'}}; what they
  leave out has its default. facts: image_shape, and num_classes if the network
  sees the class. notes: sentences for the user about what was assumed. more:
  other branches of the parameters of a run, by name.
  """

  network: Any
  params: Any
  sections: dict[str, Any]
  facts: dict[str, Any]
  notes: tuple[str, ...] = ()
  more: Mapping[str, Any] = types.MappingProxyType({})


class Model(NamedTuple):
  """A network of another project in terms of ours, without weights.

  layers: with their names there; those that the network does not have are
  ignored. The other fields are those of `Imported`.
  """

  network: nn.Module
  layers: Sequence[Layer]
  sections: dict[str, Any]
  facts: dict[str, Any]
  notes: tuple[str, ...] = ()

  def shapes(self) -> Any:
    """Returns the shapes of the parameters of our network."""
    return shapes_of(self.network, self.sections, self.facts['image_shape'])

  def table(self) -> list[Entry]:
    """Returns the names of the parameters there."""
    return layers.entries(self.layers, self.shapes())

  def read(
    self,
    tensors: Mapping[str, Any],
    ignored: Callable[[str], bool] = lambda name: False,
  ) -> Imported:
    """Returns the network with its weights; ValueError as `names.read`."""
    shapes = self.shapes()
    table = layers.entries(self.layers, shapes)
    params = names.read(table, tensors, shapes, ignored)
    return Imported(self.network, params, self.sections, self.facts, self.notes)


def shapes_of(
  network: nn.Module, sections: Mapping[str, Any], shape: Sequence[int]
) -> Any:
  """Returns the shapes of the parameters of a network for images of a shape.

  Which inputs it has besides the image, the sections say.
  """
  inputs: tuple[Any, ...] = (jnp.zeros((1, *shape)),)
  if 'noise_input' in sections:
    inputs += (jnp.zeros(1),)
  if sections.get('conditioning', {}).get('labels'):
    inputs += ({'label': jnp.zeros(1, jnp.int32)},)
  variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  return variables['params']


def facts_of(shape: tuple[int, ...], num_classes: int) -> dict[str, Any]:
  """Returns `Imported.facts`."""
  facts: dict[str, Any] = {'image_shape': tuple(shape)}
  return facts | ({'num_classes': num_classes} if num_classes else {})


def eps_sections(
  schedule: dict[str, Any],
  noise_input: dict[str, Any],
  sampling: dict[str, Any],
  t_min: float | None = None,
) -> dict[str, Any]:
  """Returns the sections of a network of eps that was trained by L_simple.

  t_min: of uniform times; None: it was trained at steps.
  """
  objective: dict[str, Any] = {'name': 'denoising', 'weight': {'name': 'snr'}}
  if t_min is not None:
    objective['times'] = {'name': 'uniform', 't_min': t_min}
  return {
    'schedule': schedule,
    'noise_input': noise_input,
    'parametrization': {'name': 'eps'},
    'objective': objective,
    'sampling': sampling,
  }
