"""Trains, samples or noises: `python launch.py --config=configs/digits.py`.

Every value of a config can be changed on the command line, for instance
--config.training.num_steps=100; configs/base.py lists them all. Processes that
work together are each started with --multihost (docs/scaling.md).
"""

import re
import signal
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from diffusion_jax.programs import (
  PROGRAMS,
  Preempted,
  UserError,
  distributed,
  folder,
  ranges,
  sweep,
)

PREEMPTED = 42  # the exit code after which a job is to be started again

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment, a file of configs/; file.py:smoke for a trial.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run; default runs/<config>[-<argument>].'
)
_MODE = flags.DEFINE_enum('mode', 'train', list(PROGRAMS), 'What to do.')
_SWEEP_INDEX = flags.DEFINE_integer(
  'sweep_index', None, "Which override of the config's sweep(), from 0."
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'This is one of several processes that work together.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'host:port of process 0, where it is not detected.'
)
_NUM_HOSTS = flags.DEFINE_integer(
  'num_hosts', None, 'Number of processes, where it is not detected.'
)
_HOST = flags.DEFINE_integer(
  'host', None, 'Number of this process, from 0, where it is not detected.'
)


def main(_):
  """Runs the program of --mode."""
  path, _, argument = config_flags.get_config_filename(
    flags.FLAGS['config']
  ).partition(':')
  config, index = _CONFIG.value, _SWEEP_INDEX.value
  name = Path(path).stem + (f'-{argument}' if argument else '')
  workdir = _WORKDIR.value or str(Path('runs') / name)
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  try:
    if index is not None:
      overrides |= sweep.apply(path, index, config, overrides)
      workdir += f'-{index}'
    ranges.check(config)
    join(config)
    folder.check_overrides(_MODE.value, overrides, workdir)
    PROGRAMS[_MODE.value](config, workdir)
  except UserError as error:
    fail(str(error))
  except Preempted as stop:
    print(stop, flush=True)
    sys.exit(PREEMPTED)
  except KeyboardInterrupt:
    fail(f'interrupted; what was saved is in {workdir}', 130)
  except Exception:
    if not distributed.started():
      raise
    # to wait for the others at exit, as is usual, would be to wait for ever
    traceback.print_exc()
    fail('stopped by the exception above', 1)


def join(config):
  """Joins the other processes, if --multihost says that there are any."""
  where = _COORDINATOR.value, _NUM_HOSTS.value, _HOST.value
  if _MULTIHOST.value:
    if _MODE.value in ('edit', 'noise'):
      raise UserError(f'--mode={_MODE.value} is work for one process')
    distributed.start(*where, config.training.heartbeat_timeout)
    if _MODE.value != 'train':  # JAX took the signal, and nobody would look
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
  elif any(value is not None for value in where):
    raise UserError('--coordinator, --num_hosts and --host need --multihost')


def parse(argv):
  """absl's parsing with mistakes said in one line, without a traceback."""
  # Orbax and JAX say much, with tracebacks of errors that are handled as well;
  # --verbosity=0 brings it back
  logging.set_verbosity(logging.FATAL)
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


def unraisable(ignored):
  """As usual, without what tensorstore's threads say after a failed save.

  They find the event loop closed, each of them; the failure itself is raised.
  """
  if str(ignored.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(ignored)


def fail(message, code=2):
  """One line on stderr and out, without waiting for other processes."""
  host = distributed.name()
  print(f'error{host}: {" ".join(message.split())}', file=sys.stderr)
  distributed.leave(code)


if __name__ == '__main__':
  sys.unraisablehook = unraisable
  app.run(main, flags_parser=parse)
