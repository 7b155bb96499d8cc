"""Trains, samples or noises: `python launch.py --config=configs/digits.py`.

Every value of a config can be changed on the command line, for instance
--config.training.num_steps=100; configs/base.py lists them all.
"""

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
flags.mark_flags_as_required(['config'])


def default_workdir():
  """runs/digits for configs/digits.py, runs/digits-smoke for its smoke run."""
  name = config_flags.get_config_filename(flags.FLAGS['config'])
  path, _, argument = name.partition(':')
  stem = Path(path).stem
  return str(Path('runs') / (f'{stem}-{argument}' if argument else stem))


def parse(argv):
  """absl's parsing, with the config loaded and mistakes said in one line."""
  # Orbax and JAX log much at lower levels; --verbosity brings it back
  logging.set_verbosity(logging.ERROR)
  try:
    rest = app.parse_flags_with_usage(argv)
    if len(rest) > 1:
      raise ValueError(f'unexpected argument {rest[1]!r}')
    overrides = config_flags.get_override_values(flags.FLAGS['config'])
    folder.check_overrides(_MODE.value, overrides)
    _CONFIG.value.seed  # noqa: B018 - a file that is not there is noticed here
    return rest
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    fail(error)
  except UserError as error:
    fail(error)


def fail(error):
  """One line on stderr, exit code 2."""
  print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
  sys.exit(2)


def main(_):
  """Runs the program of --mode."""
  workdir = _WORKDIR.value or default_workdir()
  try:
    PROGRAMS[_MODE.value](_CONFIG.value, workdir)
  except UserError as error:
    fail(error)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
