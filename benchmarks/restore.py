"""How well --mode=edit restores a trained run's own test images.

  python -m benchmarks.restore --run=runs/digits            # an hour
  python -m benchmarks.restore --run=runs/digits --noises=5 --methods=moment

Each of the first test images is damaged by an operator and noise (in grey
levels of 255), both known exactly, and restored. A row has the residual |y - A
x| / s (1 is right), PSNR of the samples' mean and of single samples in dB, the
percentage of pixels whose truth lies between the lowest and the highest sample
((S - 1) / (S + 1) of them is right), and the seconds of drawing without XLA's
compilation. With --judge=digits, or classifier:FILE of --mode=convert, each
method restores without labels and with the true ones, and a row has the
percentage of samples classified as the true class. For --operators=mask,
--methods has the methods of edit=inpaint too, such as repaint, which take y for
exact.
"""

import argparse
import contextlib
import io
import itertools
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit import methods, mode as edit
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import choices, roles, store
from diffusion_jax.app.run import weights
from diffusion_jax.core import operators
from diffusion_jax.core.operators import Operator
from diffusion_jax.data import drawings, images
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import features
from diffusion_jax.metrics.restoration import errors
from diffusion_jax.runtime.per_example import join_parts, write_parts
from diffusion_jax.runtime.run_folder import RunFolder

OPERATORS = {
  'blur': ('blur', 'width=1.5'),
  'downsample': ('downsample', 'factor={factor}'),
  'mask': ('benchmarks.restore:upper_half',),
  'gray': ('gray',),
}
METHODS = {
  'moment, 1 iteration': ('moment', 'iterations=1'),
  'moment, 4': ('moment', 'iterations=4'),
  'moment, 8': ('moment', 'iterations=8'),
  'pseudoinverse': ('pseudoinverse',),
  'steered': ('steered',),
  'steered, 4 particles': ('steered', 'particles=4'),
  'decoupled': ('decoupled',),
  'gibbs': ('gibbs',),
  'proximal': ('proximal',),
  'dps': ('dps',),
  'red_diff': ('red_diff',),
}
FILLING = 'repaint', 'replace', 'reconstruction'  # for masks


def inpainting(method: str = 'repaint') -> methods.Method:
  """Fills in what a mask hides by an edit.method of edit=inpaint."""

  def draw(batch, known):
    mask = known.forward(jnp.ones_like(known.y)) > 0
    known = methods.Known(known.y, operators.masked(mask), mask=mask)
    return choices.TABLES['edit.method'][method]().draw(batch, known)

  return methods.Method(draw)


def upper_half(*, shape: tuple[int, ...]) -> Operator:
  """Shows the upper half of images."""
  mask = np.zeros(shape, bool)
  mask[: shape[0] // 2] = True
  return operators.masked(jnp.asarray(mask))


def numbers(text: str) -> list[float]:
  """Reads '1,5,25'."""
  return [float(x) for x in text.split(',')]


def config_of(run: str, flags: list[str]) -> Node:
  """Returns a run's config for --mode=edit with flags 'edit.noise=5'."""
  fields = [(name, text) for name, _, text in (x.partition('=') for x in flags)]
  config = store.open_run(RunFolder.at(run), skip=roles.NOT_READ)
  return store.of_run(RunFolder.at(run), config, [('edit', 'restore'), *fields])


def flags_of(operator: str, noise: float, method: str, factor: int) -> list[str]:
  """Returns the flags of a row of the table."""
  damage, *more = OPERATORS[operator]
  flags = [f'edit.noise={noise:g}', f'edit.operator={damage}']
  flags += [f'edit.operator.{x.format(factor=factor)}' for x in more]
  own = 'benchmarks.restore:inpainting', f'method={method}'
  name, *settings = own if method in FILLING else METHODS[method]
  flags += [f'edit.posterior={name}']
  return flags + [f'edit.posterior.{x}' for x in settings]


def write_clean(run: str, count: int, folder: Path, flags: list[str]) -> np.ndarray:
  """Writes the first `count` test images as PNG files; returns their labels."""
  source = datasets.source_of(config_of(run, flags), 'test')
  values, rows = source.facts.x, source.read(np.arange(count))
  for i, picture in enumerate(values.decode(values.encode(rows['x']))):
    drawings.write_png(folder / f'{i:03}.png', picture)
  return rows.get('label', np.zeros(count, int))


def measure(
  run: str, flags: list[str], cond: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, float], float]:
  """Returns the samples, the means over the pictures, and the seconds.

  cond: each sample's condition, or {}.
  """
  config = config_of(run, flags)
  with contextlib.redirect_stdout(io.StringIO()):
    opened = weights.Run.open(config, RunFolder.at(run))
    opened.check('edit')
    given = edit.inputs_of(opened.model)._replace(cond=cond)
  clean = images.PICTURES.encode(given.pictures['clean'])
  index = np.arange(given.edit.count())
  size = config.sampling.batch_size
  compiling = []

  def listen(event: str, duration_secs: float, **_: str | int) -> None:
    if 'backend_compile' in event:
      compiling.append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(listen)
  start = time.perf_counter()
  with contextlib.redirect_stdout(io.StringIO()):
    with tempfile.TemporaryDirectory() as folder:
      parts = Path(folder) / 'parts'
      paths = write_parts(edit.drawing(opened, given), len(index), size, parts, 'editing')
      drawn = join_parts(paths)
  seconds = time.perf_counter() - start - sum(compiling)
  jax.monitoring.clear_event_listeners()
  x = drawn['x'].reshape(len(clean), -1, *clean.shape[1:])
  residual = drawn['residual'].reshape(len(clean), -1)
  rows = []
  for i in range(len(clean)):
    row = {'residual': float(np.sqrt(np.mean(np.square(residual[i]))))}
    rows.append(row | errors(x[i], clean[i]))
  means = {n: float(np.mean([r[n] for r in rows])) for n in rows[0]}
  return opened.model.facts.x.decode(drawn['x']), means, seconds


def main() -> None:
  """Prints a table for each operator and noise."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--run', required=True)
  parser.add_argument('--operators', default='blur,downsample,mask')
  parser.add_argument('--noises', type=numbers, default='1,5,25')
  parser.add_argument(
    '--methods',
    default=';'.join(METHODS),
    help=f'by ;, of {"; ".join(METHODS)}, and for masks {"; ".join(FILLING)}',
  )
  parser.add_argument('--images', type=int, default=8)
  parser.add_argument('--samples', type=int, default=8)
  parser.add_argument('--factor', type=int, default=2, help='of downsample')
  parser.add_argument('--flags', default='', help='sampling.num_steps=50 data.data_dir=...')
  parser.add_argument('--judge', default='', help='digits, or classifier:FILE')
  args = parser.parse_args()
  for operator in args.operators.split(','):
    if operator not in OPERATORS:
      parser.error(f'--operators: {operator} is not of {", ".join(OPERATORS)}')
  for method in args.methods.split(';'):
    if method not in (*METHODS, *FILLING):
      parser.error(f'--methods: {method} is unknown, see --help')
    if method in FILLING and args.operators != 'mask':
      parser.error(f'--methods: {method} needs --operators=mask')
  judge = None
  if args.judge:
    name, _, path = args.judge.partition(':')
    try:
      judge = features.make(name, path)
    except ValueError as error:
      raise SystemExit(f'--judge: {error}') from error
  head = 'damage, noise', 'method', 'residual', 'PSNR of mean, sample'
  head += 'between', 'seconds', *(['read as the truth'] if judge else [])
  print(f'| {" | ".join(head)} |\n{"|---" * len(head)}|')
  folder = Path(tempfile.mkdtemp())
  labels = write_clean(args.run, args.images, folder, args.flags.split())
  label = np.repeat(labels, args.samples)
  conds = {'': {}} | ({', labels': {'label': label}} if judge else {})
  noises: list[float] = args.noises
  for operator, noise in itertools.product(args.operators.split(','), noises):
    for method, (given, cond) in itertools.product(args.methods.split(';'), conds.items()):
      flags = flags_of(operator, noise, method, args.factor)
      flags += [f'edit.num_samples={args.samples}', 'edit.simulate=True']
      flags += [f'edit.image={folder}']
      flags += ['sampling.batch_size=64', *args.flags.split()]
      x, found, seconds = measure(args.run, flags, cond)
      row = f'{operator}, {noise:g}', method + given, f'{found["residual"]:.2f}'
      row += (f'{found["psnr_of_mean"]:.1f}, {found["psnr"]:.1f}',)
      row += f'{found["between"]:.0f} %', f'{seconds:.1f}'
      if judge:
        right = judge.extract(x)['predicted'] == label
        row += (f'{np.mean(right):.1%}',)
      print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
  try:
    main()
  except UserError as error:
    raise SystemExit(f'error: {error}') from error
