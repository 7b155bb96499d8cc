"""The command line that the judges of samples share."""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from diffusion_jax.data import image_sets


def check_images(images: np.ndarray, shape: tuple[int, ...], what: str) -> None:
  """Raises ValueError unless the images are [N, *shape]."""
  if images.shape[1:] != shape:
    sizes = ', '.join(map(str, shape))
    raise ValueError(f'{what} must be [N, {sizes}], got {list(images.shape)}')


def check_count(count: int, what: str, images: np.ndarray) -> None:
  """Raises ValueError unless each image has its label or text."""
  if count != len(images):
    raise ValueError(f'{count} {what} for {len(images)} images')


def main(judge: Callable[[np.ndarray, np.ndarray], list[str]], name: str, doc: str | None) -> None:
  """Prints judge(images, array) of the npz file on the command line.

  name: the array that the judge needs besides the images. doc: shown by --help.
  A file that cannot be judged is one line on stderr and exit code 2.
  """
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('samples', help=f'npz file with images and {name}')
  path = parser.parse_args().samples
  try:
    found = image_sets.read(path)
    if len(found.shape) != 4 or name not in found.arrays:
      raise ValueError(
        f'{path} must contain images (arr_0 or images) and their {name}, as '
        '--mode=sample writes them'
      )
    images = np.concatenate([*found.batches(1000)])
    print(*judge(images, found.arrays[name]), sep='\n')
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
