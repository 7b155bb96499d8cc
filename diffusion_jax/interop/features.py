"""Features of images by published networks, with weights that the user has.

python -m diffusion_jax.interop.features inception weights.pth out.safetensors

checks a file of weights and converts it to safetensors, which is read without
torch.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.data.spec import Facts
from diffusion_jax.interop import dinov2, inception
from diffusion_jax.interop.names import Params, require
from diffusion_jax.interop.weight_files import write_safetensors
from diffusion_jax.runtime.files import sha256
from diffusion_jax.runtime.per_example import one_ahead

Array = jax.Array

# The environment variable with the folder or file that is read by default.
VARIABLE = 'DIFFUSION_JAX_WEIGHTS'
# Modules with FILES, WHERE, TITLE, HOW, PREPROCESS and `read`.
NAMES = {'inception': inception, 'dinov2': dinov2}


@dataclasses.dataclass(frozen=True)
class Features:
  """Computes features of images uint8 [N, H, W, 3 or 1], 0..255.

  A call returns float32 arrays by name: 'features' [N, D], and the network's
  other outputs. compute: (params, images [B, H, W, C]) -> the arrays of a
  batch. protocol: what to report with every figure: the features' name, the
  preprocessing, and the SHA-256 of the file of weights. facts: of the images that a
  classifier of the user's knows.
  """

  compute: Callable[[Params, Array], dict[str, Array]]
  params: Params
  protocol: dict[str, str]
  batch_size: int = 64
  facts: Facts | None = None

  def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the features; ValueError for other images."""
    check_images(images)
    starts = range(0, len(images), self.batch_size)
    batches = (images[i : i + self.batch_size] for i in starts)
    parts = list(self.stream(batches))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

  def stream(self, batches: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the features of each batch of at most batch_size images.

    The device computes a batch while the one before is fetched and used.
    """
    yield from (arrays for _, arrays in one_ahead(self._start, batches))

  def _start(self, batch):
    # All batches have one size, so that the network is compiled once.
    check_images(batch)
    count = len(batch)
    rest = self.batch_size - count
    if rest:
      batch = np.concatenate([batch, np.repeat(batch[-1:], rest, axis=0)])
    sharding = NamedSharding(Mesh(_devices(self.batch_size), ('data',)), PartitionSpec('data'))
    arrays = self.compute(self.params, jax.device_put(batch, sharding))
    return lambda: {name: np.asarray(x)[:count] for name, x in arrays.items()}


def load_features(name: str, path: str | Path | None = None, batch_size: int = 64) -> Features:
  """Returns the features of 'inception' or 'dinov2' with weights from a file.

  path: a file, or a folder with the file under its published name; by default
  the value of the environment variable DIFFUSION_JAX_WEIGHTS. All devices of
  this process share a batch if their number divides its size. Matrix products
  have full float32 precision. Raises ValueError, with the names of the files
  and projects, if the file does not exist.
  """
  file = find_weights(name, path)
  kind = NAMES[name]
  network, params, _ = kind.read(file)

  @jax.jit
  def compute(params, images):
    with jax.default_matmul_precision('highest'):
      return network.apply({'params': params}, kind.PREPROCESS(images))

  protocol = {
    'features': kind.TITLE.format(**vars(network)),
    'preprocessing': kind.HOW,
    'weights': sha256(file),
  }
  everywhere = NamedSharding(Mesh(_devices(batch_size), ('data',)), PartitionSpec())
  params = jax.device_put(params, everywhere)
  return Features(compute, params, protocol, batch_size)


def find_weights(name: str, path: str | Path | None = None) -> Path:
  """Returns the file of weights for the features `name`, see load_features."""
  known = ', '.join(NAMES)
  require(name in NAMES, f'features {name!r} are not one of {known}')
  kind, given = NAMES[name], path or os.environ.get(VARIABLE, '')
  need = f'features {name!r} need {kind.WHERE}'
  require(
    bool(given),
    f'{need}: give the path of the file as weights, or its folder in the '
    f'environment variable {VARIABLE}',
  )
  file = Path(given)
  if file.is_dir():
    present = [file / part for part in kind.FILES if (file / part).is_file()]
    file = present[0] if present else file
  require(file.is_file(), f'{given} is neither a file nor a folder with it: {need}')
  return file


def check_images(images: np.ndarray) -> None:
  """Raises ValueError unless these are uint8 [N, H, W, 3 or 1], N > 0."""
  shape = np.shape(images)
  require(
    len(shape) == 4 and shape[-1] in (1, 3) and all(shape),
    f'images must be [N, H, W, 3 or 1], not {list(shape)}',
  )
  require(
    images.dtype == np.uint8,
    f'features need uint8 images, 0..255, not {images.dtype}: quantise once, '
    'round(clip((x + 1) 127.5, 0, 255))',
  )


def _devices(batch_size):
  devices = jax.local_devices()
  return devices if batch_size % len(devices) == 0 else devices[:1]


def main(name: str, source: str, target: str | None = None) -> None:
  """Checks a file of weights and converts it to safetensors."""
  try:
    path = find_weights(name, source)
    _, params, tensors = NAMES[name].read(path)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f'{path}: {name}, {count:,} numbers, SHA-256 {sha256(path)}')
    if target:
      write_safetensors(target, tensors)
      print(f'{target}: SHA-256 {sha256(target)}')
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
  main(*sys.argv[1:])
