"""Defines the command line of launch.py and of the installed `diffusion-jax`.

--config names a file of ./configs, or one of those that are installed.
"""

import difflib
import importlib
import importlib.util
import keyword
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from diffusion_jax import help
from diffusion_jax.build import audit, make, own_parts, ranges
from diffusion_jax.errors import Preempted, UserError
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.runs import memory, processes, run_folder, sweep, user_cache

PREEMPTED = 42  # the exit code after which a job is to be started again

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment, a file of configs/; file.py:smoke for a trial.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run; default runs/<config>[-<argument>].'
)
_MODE = flags.DEFINE_string(
  'mode', 'train', 'What to do, a mode; default train.'
)
_HELP_MODE = flags.DEFINE_string(
  'help_mode', None, 'Names the fields that a mode reads, with comments.'
)
_SWEEP_INDEX = flags.DEFINE_integer(
  'sweep_index', None, "Which override of the config's sweep(), from 0."
)
_ALLOW = flags.DEFINE_list(
  'allow', [], 'Own parts, module:name, that a stored config may import.'
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
  if argument and Path(argument, 'config.json').is_file():  # configs/run.py
    workdir = _WORKDIR.value or argument
  else:
    workdir = _WORKDIR.value or str(Path('runs') / name)
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  for field, value in overrides.items():
    if value == ('',):  # `--config.sampling.labels=` is an empty tuple.
      overrides[field] = ()
      config.update_from_flattened_dict({field: ()})
  try:
    if index is not None:
      overrides |= sweep.apply(path, index, config, overrides)
      workdir += f'-{index}'
    own_parts.allow([*_ALLOW.value, *own_parts.texts(overrides)])
    own_parts.allow_named(config)
    ranges.check(config)
    audit.rename_values(config)
    audit.reset_unused(config, overrides)
    audit.audit(config)
    join(config)
    user_cache.keep_compilations(config.compilation_cache)
    run_folder.check_overrides(_MODE.value, overrides, workdir)
    if _MODE.value != 'train':
      run_folder.forget_computed_by(config, overrides)
    PROGRAMS[_MODE.value](config, workdir)
  except UserError as error:
    fail(str(error))
  except Preempted as stop:
    print(stop, flush=True)
    sys.exit(PREEMPTED)
  except KeyboardInterrupt:
    fail(f'interrupted; what was saved is in {workdir}', 130)
  except Exception:
    if not processes.started():
      raise
    # A plain exit would wait for the other processes for ever.
    traceback.print_exc()
    fail('stopped by the exception above', 1)


def join(config):
  """Joins the other processes, if --multihost says that there are any."""
  where = _COORDINATOR.value, _NUM_HOSTS.value, _HOST.value
  if _MULTIHOST.value:
    if _MODE.value in ('edit', 'average', 'report', 'noise', 'convert'):
      raise UserError(f'--mode={_MODE.value} is work for one process')
    processes.start(*where, config.training.heartbeat_timeout)
    if _MODE.value != 'train':  # JAX took the signal, and no code checks it
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
  elif any(value is not None for value in where):
    raise UserError('--coordinator, --num_hosts and --host need --multihost')


def parse(argv: list[str]) -> list[str]:
  """Parses the arguments as absl does; a mistake ends in one line."""
  # Orbax and JAX log much, with tracebacks of errors that are handled as well;
  # --verbosity=0 brings it back.
  logging.set_verbosity(logging.FATAL)
  answer(argv)
  argv = quote_keywords(find_config_file(argv))
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    fail(brief(str(error)))
  except (AttributeError, KeyError) as error:  # a field that is not there
    name = re.sub(r"[\\']", '', str(error.args[0]).replace('\\n', '. '))
    if 'has no attribute get_config' in name:
      fail_without_config(argv, 'is missing')
    if '<class NoneType>' in name:  # `--config.seed=1` of None
      fail_without_config(argv, 'returns None')
    fail(f'no such config field: {name}{new_name(name)}')
  except SyntaxError as error:
    fail(f'{error.filename}, line {error.lineno}: {error.msg}')
  except (TypeError, ValueError) as error:
    fail(str(error))
  if not isinstance(_CONFIG.value, ConfigDict):
    kind = type(_CONFIG.value).__name__.removesuffix('Type')
    fail_without_config(argv, f'returns {kind}')
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}: values are given as --name=value')
  return rest


def answer(argv):
  """Prints what --help, --help_mode or --mode=list are to say, and exits.

  Without the config that everything else needs.
  """
  given = dict(re.findall(r'^--?(mode|help_mode)[= ](.*)$', spaced(argv), re.M))
  if 'help_mode' in given:
    check_mode('help_mode', given['help_mode'])
    said = help.mode_help(given['help_mode'], help.base_file())
  elif set(argv[1:]) & {'--help', '-help', '-h'}:
    known = flags.FLAGS.get_key_flags_for_module(__name__)
    name = Path(argv[0]).name
    program = f'python {name}' if name.endswith('.py') else name
    said = help.main_help(program, known)
  elif given.get('mode') == 'list':
    said = help.list_configs()
  else:
    check_mode('mode', given.get('mode', 'train'))
    return
  print(said)
  sys.exit()


def spaced(argv):
  """Returns a line for each argument, with the next one if that is a value."""
  lines = ''.join(
    f'\n{arg}' if arg.startswith('-') else f' {arg}' for arg in argv[1:]
  )
  return lines.strip()


def check_mode(flag, value):
  """Fails for a mode that there is not."""
  known = [name for name in help.modes() if name != 'list' or flag == 'mode']
  if value not in known:
    fail(
      f'--{flag}={value}{make.near(value, known)} is not one of '
      f'{", ".join(known)}'
    )


def quote_keywords(argv):
  """Returns argv with quotes around lists of words such as fid,is or a/b,c.

  They are read as Python, where keywords and paths are no names. Flags other
  than those of fields are not read so.
  """
  quoted = []
  for arg in argv:
    flag, _, value = arg.partition('=')
    words = value.split(',')
    of_field = flag.lstrip('-').startswith('config.')
    if of_field and len(words) > 1 and any(map(is_no_name, words)):
      arg = f'{flag}={value!r}'
    quoted.append(arg)
  return quoted


def is_no_name(word):
  """Returns whether a word is a text that Python does not read as a name."""
  begins = re.match(r'[a-zA-Z_/~]|\.+/', word) is not None
  return keyword.iskeyword(word) or begins and not word.isidentifier()


def new_name(message):
  """Returns '; conditioning.dropout now' for a renamed field, else ''."""
  field = re.findall(r'\w+', message)[:1]
  found = [
    f'; {old} is {new} now'
    for old, new in audit.RENAMED_FIELDS.items()
    if [old.split('.')[1]] == field
  ]
  return ''.join(found)


def find_config_file(argv):
  """Returns argv with the path of the file that --config names.

  Fails unless there is one, which absl would notice much later.
  """
  argv, found = list(argv), None
  for i, arg in enumerate(argv):
    flag, sign, value = arg.partition('=')
    if flag not in ('-config', '--config'):
      continue
    if not sign:  # the value is the next argument
      value = ''.join(argv[i + 1 : i + 2])
      del argv[i + 1 : i + 2]
    path, colon, argument = value.partition(':')
    found = find_config(path)
    if path and found is None:
      stems = {Path(name).stem: name for name in help.config_files()}
      near = difflib.get_close_matches(Path(path).stem, stems, n=1)
      hint = f' (did you mean {stems[near[0]]!r}?)' if near else ''
      fail(f'there is no config file {path}{hint}; --mode=list names some')
    argv[i] = f'{flag}={found}{colon}{argument}'
  wants_help = any(re.match(r'--?help', arg) for arg in argv[1:])
  if not found and not wants_help:
    fail('which experiment? Give --config=configs/digits.py, for instance')
  return argv


def fail_without_config(argv, wrong) -> NoReturn:
  """Fails because get_config() of the config file is `wrong`."""
  path = re.findall(r'^--?config=([^:\n]*)', spaced(argv), re.M)[-1]
  fail(
    f'{path}: get_config() {wrong}, and must return a config: begin it with '
    '`config = base.get_config()` of configs/base.py, and end it with '
    '`return config`'
  )


def find_config(path):
  """Returns the path of a config file, None where there is none.

  configs/<name>.py of the working folder, or else the one that is installed as
  diffusion_jax/configs/<name>.py. Installed files import each other as
  `configs`, and so may files of the user's, if they have no `configs` nearby.
  """
  spec: Any = importlib.util.find_spec('diffusion_jax.configs')
  if Path(path).is_file():
    if spec is not None and not importable('configs.base'):
      sys.modules['configs'] = importlib.import_module(spec.name)
    return path
  if spec is None or Path(path).parts[:-1] != ('configs',):
    return None
  found = Path(spec.submodule_search_locations[0]) / Path(path).name
  if not found.is_file():
    return None
  sys.modules['configs'] = importlib.import_module(spec.name)
  return str(found)


def importable(name):
  """Returns whether there is a module of that name, a.b, in a package a."""
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:
    return False


def brief(message):
  """Returns the last line of a traceback and its place; else the message.

  Without the place where configs/base.py or run.py refuse an argument.
  """
  places = re.findall(r'File "(.*?)", line (\d+)', message)
  if not places:
    return message
  path, line = places[-1]
  last = message.strip().splitlines()[-1].strip()
  if Path(path).resolve().parent == help.base_file().resolve().parent:
    if Path(path).name in ('base.py', 'run.py'):
      return last.removeprefix('ValueError: ')
  return f'{last} ({path}, line {line})'


def unraisable(ignored):
  """Reports an ignored exception, except those after a failed save.

  Each thread of tensorstore then finds the event loop closed; the failure
  itself is raised.
  """
  if str(ignored.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(ignored)


def fail(message: str, code: int = 2) -> NoReturn:
  """Prints one line on stderr and exits without waiting for others."""
  host = processes.name()
  print(f'error{host}: {" ".join(message.split())}', file=sys.stderr)
  processes.exit_all(code)


def run():
  """Parses the command line, and runs `main` with absl."""
  sys.unraisablehook = unraisable
  memory.keep_freed_memory()
  sys.path.append(os.getcwd())  # An installed script does not import from it.
  for flag in flags.FLAGS.get_key_flags_for_module(__name__):  # for --help
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(main, flags_parser=parse)
