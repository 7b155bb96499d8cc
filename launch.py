"""Trains, samples or noises: `python launch.py --config=configs/digits.py`.

Every value of a config can be changed on the command line, for instance
--config.training.num_steps=100; configs/base.py lists them all.
"""

import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from diffusion_jax.programs import PROGRAMS, UserError, folder

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment, a file of configs/; file.py:smoke for a trial.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run; default runs/<config>[-<argument>].'
)
_MODE = flags.DEFINE_enum('mode', 'train', list(PROGRAMS), 'What to do.')


def main(_):
  """Runs the program of --mode."""
  path, _, argument = config_flags.get_config_filename(
    flags.FLAGS['config']
  ).partition(':')
  name = Path(path).stem + (f'-{argument}' if argument else '')
  workdir = _WORKDIR.value or str(Path('runs') / name)
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  try:
    folder.check_overrides(_MODE.value, overrides, workdir)
    PROGRAMS[_MODE.value](_CONFIG.value, workdir)
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    fail(f'interrupted; what was saved is in {workdir}', 130)


def parse(argv):
  """absl's parsing with mistakes said in one line, without a traceback."""
  # Orbax and JAX say much at lower levels; --verbosity=0 brings it back
  logging.set_verbosity(logging.ERROR)
  check_config_file(argv)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    fail(brief(str(error)))
  except (AttributeError, KeyError) as error:  # a field that is not there
    name = re.sub(r"[\\']", '', str(error.args[0]).replace('\\n', '. '))
    fail(f'no such config field: {name}')
  except SyntaxError as error:
    fail(f'{error.filename}, line {error.lineno}: {error.msg}')
  except (TypeError, ValueError) as error:
    fail(str(error))
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}: values are given as --name=value')
  return rest


def check_config_file(argv):
  """Fails unless --config names a file; absl would notice much later."""
  given = re.findall(r'(?m)^--?config[=\n](.*)$', '\n'.join(argv[1:]))
  wants_help = any(re.match(r'--?help', arg) for arg in argv[1:])
  if not given and not wants_help:
    fail('which experiment? Give --config=configs/digits.py, for instance')
  path = given[-1].partition(':')[0] if given else ''
  if given and not Path(path).is_file():
    fail(f'there is no config file {path}')


def brief(message):
  """The last line of a traceback with the place it points to, else as it is."""
  places = re.findall(r'File "(.*?)", line (\d+)', message)
  if not places:
    return message
  path, line = places[-1]
  return f'{message.strip().splitlines()[-1].strip()} ({path}, line {line})'


def fail(message, code=2):
  """One line on stderr and out."""
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(code)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
