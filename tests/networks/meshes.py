"""Meshes of devices that are not here, to trace networks for them."""

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType


def mesh_of(kind: str, platform: str = 'gpu') -> AbstractMesh:
  """Returns a mesh of one device."""
  device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
  return AbstractMesh(
    (1, 1), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2, abstract_device=device
  )


def on(kind: str, function, platform: str = 'gpu'):
  """Returns the function, traced with the mesh of a device in use."""

  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh_of(kind, platform)):
      return function(*args)

  return traced


H100 = 'NVIDIA H100 80GB HBM3'
