"""Damaged pictures of a set, found before a training needs them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from diffusion_jax.data.set_files import say_left_out

_BLOCK, _THREADS = 64, 16


def problem(check: Callable, *args: object) -> str:
  """Returns why a picture cannot be read, or ''."""
  try:
    check(*args)
  except (ValueError, OSError) as error:
    return str(error)
  return ''


def damaged(problems: Callable[[range], Sequence[str]], size: int, title: str) -> dict[int, str]:
  """Returns {number: what is wrong} of the damaged pictures of a set.

  problems: of a range of pictures, '' for an intact one; threads call it.
  """
  blocks = [range(i, min(i + _BLOCK, size)) for i in range(0, size, _BLOCK)]
  bar = tqdm(None, title, size, unit='picture', delay=1, disable=None)
  pool, errors = ThreadPoolExecutor(_THREADS), {}
  try:
    for block, lines in zip(blocks, pool.map(problems, blocks), strict=True):
      errors |= {i: x for i, x in zip(block, lines, strict=True) if x}
      bar.update(len(block))
  finally:
    bar.close()
    pool.shutdown(cancel_futures=True)
  return errors


def left_out(
  errors: dict[int, str], size: int, names: Sequence[str], what: str, skip: bool
) -> None:
  """Says how many of `size` pictures are damaged and left out.

  errors: see `damaged`; names: of these pictures. Raises ValueError instead
  unless `skip`, or if no picture is left.
  """
  if not errors:
    return
  if skip and len(errors) < size:
    say_left_out(what, len(errors), size, 'pictures', names, 'they are damaged')
    return
  more = f' and {len(names) - 10:,} more' * (len(names) > 10)
  raise ValueError(
    f'{len(errors):,} of {size:,} pictures in {what} are damaged: {", ".join(names[:10])}{more} '
    f'({next(iter(errors.values()))}): replace them, or leave them out by skip_damaged=True'
  )
