"""Lists the exercises, prints the statement of one, or checks the functions of a file."""

import runpy
import sys
from pathlib import Path

from diffusion_jax import exercises
from diffusion_jax.errors import OWN, place_of


def main(*words: str) -> int | str:
  """Returns the exit code, or a sentence that says what is wrong with the words."""
  wrong = 0
  for word in words:
    if not word.endswith('.py'):
      try:
        exercises.ask(word)
      except ValueError as error:
        return str(error)
    elif not Path(word).is_file():
      return f'there is no file {word}'
    else:
      OWN.add(word)
      try:
        own = runpy.run_path(word)
      except Exception as error:
        return f'{word} raises {type(error).__name__}: {error}{place_of(error)}'
      written = [name for name in exercises.names() if name in own]
      if not written:
        return f'{word} has no function with the name of an exercise'
      wrong += sum(not exercises.check(name, own[name]) for name in written)
  if not words:
    print('\n'.join(f'{i}. {name}' for i, name in enumerate(exercises.names(), 1)))
  return int(wrong > 0)


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
