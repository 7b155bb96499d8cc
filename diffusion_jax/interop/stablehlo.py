"""Samplers as StableHLO, which run without this package."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import export
from jax.typing import DTypeLike

from diffusion_jax.aliases import NamedParams, Params, PyTree
from diffusion_jax.drafts import draft_folder
from diffusion_jax.interop import files

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
cond = {cond}  # what the images show
images = np.asarray(sampler.call(weights, index, cond))  # in [-1, 1]
np.save('images.npy', images)
print('wrote images.npy,', images.shape)
'''


def save(
  out: str | Path,
  compute: Callable[[Params, jax.Array, PyTree], PyTree],
  params: NamedParams,
  shapes: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
  size: int,
) -> None:
  """Writes a folder with a sampler's program, its weights and a script.

  The program is (weights by name, index int32 [size], cond) -> images, for
  CPUs, CUDA and TPUs. It does not contain the weights.

  Args:
    compute: the function (params, index, cond) -> images, which JAX can trace.
    shapes: (shape, dtype) of each array of cond.
  """
  arrays = jax.tree.map(jnp.asarray, dict(params))
  weights = files.flatten(jax.device_get(arrays))
  cond = {name: jax.ShapeDtypeStruct(*array) for name, array in shapes.items()}

  def sampler(weights, index, cond):
    params = traverse_util.unflatten_dict(weights, sep='/')
    return compute(params, index, cond)

  index = jax.ShapeDtypeStruct((size,), jnp.int32)
  by_name = {
    n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in weights.items()
  }
  exported = export.export(jax.jit(sampler), platforms=PLATFORMS)
  program = exported(by_name, index, cond).serialize()
  zeros = (
    f"{name!r}: np.zeros({x.shape}, '{x.dtype}')" for name, x in cond.items()
  )
  script = _SCRIPT.format(size=size, cond='{' + ', '.join(zeros) + '}')
  with draft_folder(out) as new:
    files.write_safetensors(new / WEIGHTS, weights)
    (new / PROGRAM).write_bytes(program)
    (new / SCRIPT).write_text(script)
