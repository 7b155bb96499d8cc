"""A row of the first samples of each file, of the same noise and labels.

  python -m benchmarks.few_steps_sheet --out=docs/images/few_steps.png \
    'flow, 50 calls=runs/.../samples.npz' 'distilled, 1 call=...'
"""

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags

from diffusion_jax.data import images

flags.DEFINE_string('out', 'few_steps.png', 'The picture to write.')
flags.DEFINE_integer('count', 20, 'Samples in a row.')


def main(argv):
  """Reads title=file.npz arguments and writes the picture."""
  pairs = [argument.split('=', 1) for argument in argv[1:]]
  count = flags.FLAGS.count
  figure, axes = plt.subplots(len(pairs), figsize=(9, 0.52 * len(pairs)))
  for axis, (title, path) in zip(np.atleast_1d(axes), pairs, strict=True):
    with np.load(path) as file:
      sheet = images.grid(file['arr_0'][:count], count, 4)
    axis.imshow(sheet[..., 0], cmap='gray', vmin=0, vmax=255)
    axis.set_title(title, x=-0.01, y=0.25, ha='right', fontsize=8)
    axis.axis('off')
  figure.subplots_adjust(0.2, 0.01, 0.995, 0.99, hspace=0.05)
  figure.savefig(flags.FLAGS.out, dpi=110)


if __name__ == '__main__':
  app.run(main)
