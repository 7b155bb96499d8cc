"""Samplers and classifiers as StableHLO, which run without this package."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export

from diffusion_jax.aliases import NamedParams, Params, PyTree
from diffusion_jax.atomic_files import draft, draft_folder
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.interop import weight_files
from diffusion_jax.interop.features import Features
from diffusion_jax.interop.names import require
from diffusion_jax.runtime.files import sha256

PLATFORMS = 'cpu', 'cuda', 'tpu'
PROGRAM, WEIGHTS, SCRIPT = 'sampler.stablehlo', 'weights.safetensors', 'run.py'

_SCRIPT = '''"""Draws images: python run.py [number of the first image]."""

import pathlib
import sys

import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path(__file__).parent
program = (folder / 'sampler.stablehlo').read_bytes()
sampler = export.deserialize(bytearray(program))
weights = load_file(folder / 'weights.safetensors')
first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
index = np.arange(first, first + {size}, dtype=np.int32)  # image i is fixed
cond = {cond}  # what the images show; numbers in the data's units
# What is drawn is {unit}.
images = np.asarray(sampler.call(weights, index, cond))
np.save('images.npy', images)
print('wrote images.npy,', images.shape)
'''


def save(
  out: str | Path,
  compute: Callable[[Params, jax.Array, PyTree], PyTree],
  params: NamedParams,
  cond: dict[str, jax.ShapeDtypeStruct],
  size: int,
  unit: str = 'in [-1, 1]',
) -> None:
  """Writes a folder with a sampler's program, its weights and a script.

  The program is (weights by name, index int32 [size], cond) -> images, for
  CPUs, CUDA and TPUs. It does not contain the weights.

  Args:
    compute: the function (params, index, cond) -> images, which JAX can trace.
    cond: the shapes of its arrays.
    unit: of the images, for the reader of the script.
  """
  weights = weight_files.flatten(jax.device_get(jax.tree.map(jnp.asarray, dict(params))))

  def sampler(weights, index, cond):
    return compute(traverse_util.unflatten_dict(weights, sep='/'), index, cond)

  index = jax.ShapeDtypeStruct((size,), jnp.int32)
  by_name = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in weights.items()}
  exported = export.export(jax.jit(sampler), platforms=PLATFORMS)
  program = exported(by_name, index, cond).serialize()
  fill = {'known': 'np.nan'}  # 0 for other conditions
  fields = (
    f"{name!r}: np.full({x.shape}, {fill.get(name, 0)}, '{x.dtype}')" for name, x in cond.items()
  )
  text = '{' + ', '.join(fields) + '}'
  script = _SCRIPT.format(size=size, unit=unit, cond=text)
  with draft_folder(out) as new:
    weight_files.write_safetensors(new / WEIGHTS, weights)
    (new / PROGRAM).write_bytes(program)
    (new / SCRIPT).write_text(script)


def save_features(
  out: str | Path,
  compute: Callable[[jax.Array], dict[str, jax.Array]],
  batch_size: int,
  facts: Facts,
) -> None:
  """Writes a classifier as one file, with its weights, for CPUs, CUDA and TPUs.

  The program is images uint8 [batch_size, H, W, C] -> compute(images), which
  `load_features` reads. facts: of the images; the program's name has what they mean.
  """
  images = jax.ShapeDtypeStruct((batch_size, *facts.x.shape), jnp.uint8)

  def compute_features(images):
    return compute(images)

  about = {'num_classes': facts.num_classes, 'class_names': facts.class_names}
  compute_features.__name__ = json.dumps(about)
  program = export.export(jax.jit(compute_features), platforms=PLATFORMS)(images).serialize()
  Path(out).parent.mkdir(parents=True, exist_ok=True)
  with draft(out) as file:
    file.write(program)


def load_features(path: str | Path) -> Features:
  """Returns the features of a classifier that `save_features` wrote.

  The program is compiled, not unpickled. Raises ValueError for other files.
  """
  make = (
    'give as weights a file that --mode=convert --config.convert.to=stablehlo '
    'wrote, of the run of a classifier'
  )
  require(Path(path).is_file(), f'features=classifier, no file {path}: {make}')
  try:
    program = export.deserialize(bytearray(Path(path).read_bytes()))
    [images] = program.in_avals
    batch_size, *shape = images.shape
  except Exception as error:  # errors of the format are of any kind
    raise ValueError(f'{path} is not an exported classifier: {make}') from error
  size = 'x'.join(map(str, shape))

  def compute(params, images) -> dict[str, jax.Array]:
    require(
      list(images.shape[1:]) == shape,
      f'{path} reads images of {size}, and these are {"x".join(map(str, images.shape[1:]))}',
    )
    call: Callable = program.call
    return call(jax.device_put(images, jax.local_devices()[0]))

  protocol = {
    'features': 'the hidden layer of a classifier',
    'preprocessing': size,
    'weights': sha256(path),
  }
  return Features(compute, {}, protocol, batch_size, _facts_in(program.fun_name, shape))


def _facts_in(name, shape):
  # Returns the facts that `save_features` has written, None in a stranger's file.
  with contextlib.suppress(ValueError, KeyError, TypeError):
    about = json.loads(name)
    names = tuple(map(str, about['class_names']))
    return Facts(ArraySpec(tuple(shape), 256), int(about['num_classes']), class_names=names)
  return None
