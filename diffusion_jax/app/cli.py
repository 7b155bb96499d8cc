"""The command line of launch.py and of the installed `diffusion-jax`.

--config names a file in ./configs, an installed config, or a run folder.
"""

import functools
import gc
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import jax
from absl import app, flags, logging

from diffusion_jax.app import help, modes, smoke
from diffusion_jax.app.config import experiments, folder, overrides
from diffusion_jax.app.config.tree import Node, paths_near
from diffusion_jax.app.kinds import idle, roles, store
from diffusion_jax.errors import Preempted, UserError, beginning, fills_device, place_of
from diffusion_jax.paths import expanded
from diffusion_jax.ranges import Count, FlagText, convert, meant, near, nearest
from diffusion_jax.runtime import (
  compiling,
  hosts,
  processes,
  run_folder,
  start_up,
)
from diffusion_jax.runtime.files import one_line
from diffusion_jax.runtime.run_folder import RunFolder

PREEMPTED = 42  # the exit code after which a job must be started again
# Fields that may differ between the processes of --multihost.
_OF_HOST = (
  'compilation_cache',
  'data.check',
  'data.data_dir',
  'data.workers',
  'training.machine.num_threads',
)


class Number(flags.ArgumentParser):
  """Parses the integer of a flag."""

  def parse(self, argument: str) -> int:
    """Returns the integer; raises ValueError, whose text follows the flag."""
    return argument if isinstance(argument, int) else convert(FlagText(argument), Count)

  def flag_type(self) -> str:
    """Returns the name of the type in --helpfull."""
    return 'int'


# A flag that is given twice is refused: the first value would be dropped.
string, texts, boolean, integer = (
  functools.partial(define, *parser, allow_overwrite=False)
  for define, *parser in (
    (flags.DEFINE_string,),
    (flags.DEFINE_list,),
    (flags.DEFINE_bool,),
    (flags.DEFINE, Number()),
  )
)

_CONFIG = string('config', None, 'A file of configs/, file.py:smoke for a trial, or a run.')
_WORKDIR = string('workdir', None, 'Folder of the run; default runs/<config>[-<argument>].')
_MODE = string('mode', 'train', 'What to do, a mode; default train.')
_VERBOSE = boolean('verbose', False, 'Prints all that a training measures, as training.verbose.')
_HELP_MODE = string('help_mode', None, 'Prints the fields that a mode reads.')
_SWEEP_INDEX = integer('sweep_index', None, "Which override of the config's sweep(), from 0.")
_ALLOW = texts('allow', [], 'Parts, module:attribute, and paths a stored config may name.')
_MULTIHOST = boolean('multihost', False, 'This is one of several processes that work together.')
_COORDINATOR = string('coordinator', None, 'host:port of process 0, where it is not detected.')
_NUM_HOSTS = integer('num_hosts', None, 'Number of processes, where it is not detected.')
_HOST = integer('host', None, 'Number of this process, from 0, where it is not detected.')
_NUMBERS = re.compile(r'[-+.\deE\s]+')  # a line of a file that has only numbers
_FIELDS: list[tuple[str, str]] = []  # the flags --config.*, as (path, text)


def split_flags(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Returns the arguments without --config.*, and those as (path, text).

  A flag without a value is True; its value may be the next argument.
  """
  rest, fields, arguments = [], [], list(argv)
  while arguments:
    argument = arguments.pop(0)
    flag, sign, text = argument.partition('=')
    path = flag.lstrip('-').removeprefix('config.')
    if not argument.startswith('-') or flag.lstrip('-') == path:
      rest.append(argument)
      continue
    if not sign:
      follows = arguments and not arguments[0].startswith('--')
      text = arguments.pop(0) if follows else 'true'
    fields.append((path, text))
  return rest, fields


def text_of(text: str) -> str:
  """Returns what a flag gives a field: for @file the list in the file.

  Each line is one of the list, or has several with commas; numbers in a line may
  have spaces between them.
  """
  if not text.startswith('@'):
    return text
  try:
    lines = map(str.strip, Path(text[1:]).expanduser().read_text('utf-8-sig').splitlines())
    return ','.join(re.sub(r'\s+', ',', x) if _NUMBERS.fullmatch(x) else x for x in lines if x)
  except (OSError, ValueError) as error:
    fail(f'{text} cannot be read as a file of text: {error}')


class Command:
  """A parsed command line: where the config is, and the flags of its fields."""

  def __init__(self, path: str, argument: str, fields: list[tuple[str, str]]):
    self.path, self.argument, self.fields = path, argument, fields
    self.is_run = bool(path) and Path(path).is_dir()
    self.point: overrides.Flags = []  # flags of --sweep_index

  @property
  def flags(self) -> list[tuple[str, str]]:
    """All flags of fields."""
    return [*self.point, *self.fields]

  @functools.cached_property
  def workdir(self) -> RunFolder:
    """The folder of the run, which a mode may write."""
    if _WORKDIR.value or self.is_run:
      return RunFolder.at(_WORKDIR.value or self.path)
    parts = self.argument, 'band' if _MODE.value == 'band' else ''
    suffix = ''.join(f'-{part}' for part in parts if part)
    index = '' if _SWEEP_INDEX.value is None else f'-{_SWEEP_INDEX.value}'
    return RunFolder.at(Path('runs') / f'{Path(self.path).stem}{suffix}{index}')

  @property
  def given_run(self) -> RunFolder:
    """The run that --config names, which is read."""
    return RunFolder.at(self.path, written=False)

  def weights_in(self) -> RunFolder:
    """Returns the run that a mode reads: workdir, or --config if workdir has no run."""
    is_read = self.is_run and folder.read_config(self.workdir) is None
    if not is_read or folder.read_config(self.given_run) is None:
      return self.workdir
    if not folder.has_checkpoint(self.given_run):
      what = f'no weights, neither {run_folder.SHARED} nor checkpoints'
      raise UserError(f'{self.given_run} has a config.json and {what}')
    return self.given_run

  def config(self, mode: str) -> Node:
    """Returns the complete config for a mode."""
    fields = self.fields
    store.allow(_ALLOW.value, fields)
    if _SWEEP_INDEX.value is not None:
      if self.is_run or not self.path:
        raise UserError('--sweep_index needs a config file with a sweep()')
      self.point = experiments.sweep(self.path, _SWEEP_INDEX.value)
      fields = self.flags
    run = self.weights_in() if self.uses_a_run(mode) else self.workdir
    with beginning(f'--sweep_index={_SWEEP_INDEX.value}: ' if self.point else ''):
      config = self.changed(mode, run, fields)
    if mode == 'evaluate' and (text := config.evaluation.sweep):
      with beginning(f'config.evaluation.sweep={text!r}: '):
        config = with_sweep(config, fields, store.swept(text))
    changed = {overrides.spelled(path, config.schema) for path, _ in fields}
    if 'optimizer.warmup_steps' in changed and (long := idle.long_warmup(config)):
      raise UserError(f'config.{long}: give a smaller one, or a longer training')
    acts_as = 'train' if self.trains(mode) else mode
    return store.without_idle(idle.IDLE, config, changed, run, acts_as)

  def changed(self, mode: str, run: RunFolder, fields: overrides.Flags) -> Node:
    """Returns the complete config of --config, or of the run of a mode, with other fields."""
    if not self.uses_a_run(mode):
      # A training reads the facts from the data, and compares the config itself.
      return store.with_flags(self.described(not self.trains(mode)), fields)
    itself = self.is_run and run == self.given_run
    return store.of_run(run, None if itself else self.described(), fields)

  def described(self, with_weights: bool = True) -> Node:
    """Returns the config of --config, without the flags.

    with_weights: of a run its facts too, if its weights have this config.
    """
    if self.is_run:
      skip = roles.NOT_READ if with_weights else (*roles.NOT_READ, 'facts')
      return store.open_run(self.given_run, skip=skip, as_saved=with_weights)
    return smoke.described(self.path, self.argument, self.fields)

  def trains(self, mode: str) -> bool:
    """Returns whether a mode trains."""
    return mode != '' and modes.find(mode).trains

  def uses_a_run(self, mode: str) -> bool:
    """Returns whether the model of a mode is a trained run's."""
    exports = mode == 'convert' and 'convert.to' in dict(self.fields)
    return exports or mode != '' and modes.find(mode).uses_a_run


def with_sweep(config: Node, fields: overrides.Flags, swept: overrides.Flags) -> Node:
  """Returns the config of an evaluation; a field that only its sweep sets has the first value.

  Raises UserError for a flag of a field of the sweep, whose value the sweep does not list.
  """
  lists = [(overrides.spelled(path, config.schema), values.split(',')) for path, values in swept]
  listed = {(path, value) for path, values in lists for value in values}
  others = [
    (path, x) for path, x in fields if (overrides.spelled(path, config.schema), x) not in listed
  ]
  overrides.spelled_once([*others, *swept], config.schema)
  unset = {path for path in config.paths() if config.at(path) is None}
  first = [(path, values[0]) for path, values in lists if path in unset]
  return store.with_flags(config, first, trusted=False) if first else config


def main(argv: list[str]) -> None:
  """Runs the mode of a command line, or prints the fields of a mode."""
  needed = _MODE.value != 'convert' and not _HELP_MODE.value
  path, argument = find_config(_CONFIG.value or _run_in_workdir(), needed)
  command = Command(path, argument, _FIELDS)
  workdir = command.workdir
  if not path and not _WORKDIR.value and not _HELP_MODE.value:
    fail('where to? Give --workdir=runs/<name> for the run of these weights')
  try:
    if _HELP_MODE.value:
      config = command.config('')
      print(help.mode_help(_HELP_MODE.value, config, _CONFIG.value or ''))
      return
    config = command.config(_MODE.value)
    uses, trains = command.uses_a_run(_MODE.value), command.trains(_MODE.value)
    run = command.weights_in() if uses else workdir
    roles.check_predecessors(config, 'train' if trains else _MODE.value, run)
    if trains and config.training.machine.fixed_parts:
      start_up.fix_threads()
    join(config)
    check_hosts(config, workdir)
    if uses and command.is_run and command.given_run.is_shared:
      from diffusion_jax.app.run import sharing

      if processes.is_first():
        sharing.fetch(command.given_run, workdir)
      processes.wait_for_all('the weights')
      run = workdir
    if command.point:  # Only the first process prints from here on.
      text = ' '.join(f'{name}={value}' for name, value in command.point)
      print(f'sweep {_SWEEP_INDEX.value}: {text}')
    if note := start_up.unused_gpu():
      print(note)
    compiling.keep_compilations(config.compilation_cache)
    with run_folder.copying(workdir):
      given = {path for path, _ in command.flags}
      start(modes.find(_MODE.value), config, workdir, run, given)
  except UserError as error:
    # Orbax leaves coroutines behind when a checkpoint cannot be written.
    warnings.filterwarnings('ignore', 'coroutine .*never awaited')
    fail(str(error))
  except Preempted as stop:
    print(stop, flush=True)
    processes.leave(PREEMPTED)
  except KeyboardInterrupt as stop:
    print(str(stop) or f'interrupted; what was saved is in {workdir}')
    end = processes.exit_all if processes.started() else processes.leave
    end(130)
  except Exception as error:
    if line := of_machine(error):
      fail(line)
    if place := place_of(error):  # The user's own part raised it.
      fail(f'{type(error).__name__}: {error}{place}')
    if not processes.started():
      raise
    # A plain exit would wait for the other processes for ever.
    traceback.print_exc()
    fail('stopped by the exception above', 1)


def start(
  mode: modes.Mode,
  config: Node,
  workdir: RunFolder,
  run: RunFolder | None = None,
  given: Collection[str] = (),
) -> None:
  """Runs a mode; opens the trained run that it uses, which workdir is unless run is given.

  given: the fields that flags set.
  """
  from diffusion_jax.app.run.weights import Run

  mode.check_trust(config)
  run = run or workdir
  mode.check_given(config, run, given)
  try:
    with compiling.products_at(config.matmul_precision):
      if not mode.uses_a_run:  # an export reads a run, and writes convert.out only
        mode(config, run)
        return
      if mode.writes and workdir.path.exists():  # before anything is computed
        workdir.make()
      mode(Run.open(config, run, given=given, workdir=workdir))
  except OSError as error:  # a full disk, most of all
    raise UserError(f'{error}. When that is resolved, the same command continues') from error


def _run_in_workdir():
  # --workdir=<run> alone is --config=<run>, but not for weights to convert.
  path = _WORKDIR.value or ''
  is_run = _MODE.value != 'convert' and Path(path, 'config.json').is_file()
  return path if is_run else ''


def join(config: Node) -> None:
  """Joins the other processes, if --multihost says that there are any."""
  coordinator, num_hosts, host = _COORDINATOR.value, _NUM_HOSTS.value, _HOST.value
  if _MULTIHOST.value:
    if modes.find(_MODE.value).single_host:
      raise UserError(f'--mode={_MODE.value} is work for one process')
    timeout = config.training.machine.heartbeat_timeout
    processes.start(coordinator, num_hosts, host, timeout)
    if not modes.find(_MODE.value).trains:  # JAX took the signal, and no code checks it
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
  elif any(value is not None for value in (coordinator, num_hosts, host)):
    raise UserError('--coordinator, --num_hosts and --host need --multihost')


def check_hosts(config: Node, workdir: RunFolder) -> None:
  """Raises UserError unless all processes do the same work in one folder."""
  if not processes.started():
    return
  twin = run_folder.twin_of(workdir)
  if twin is None:
    hosts.check_folder(workdir)
  place = '' if twin is None else twin.address
  content = folder.plain(config) | {'mode': _MODE.value, 'workdir': place}
  versions = {'versions': start_up.versions(), 'commits': start_up.commits()}
  fields = folder.flat(content | versions)
  hosts.check_same('settings', {n: x for n, x in fields.items() if n not in _OF_HOST})


def parse(argv: list[str]) -> list[str]:
  """Parses the arguments as absl does; an error is printed as one line."""
  # Orbax and JAX log a lot, even tracebacks of errors that are handled.
  # --verbosity=0 shows their messages.
  logging.set_verbosity(logging.FATAL)
  try:
    argv[1:] = flags.FLAGS.read_flags_from_files(argv[1:])  # reads the files of --flagfile
    argv, fields = split_flags(argv)
    _FIELDS[:] = [(name, text_of(text)) for name, text in fields]
    asks_help = set(argv[1:]) & {'--help', '-help', '-h'}
    rest = flags.FLAGS([a for a in argv if a not in asks_help])
  except flags.UnrecognizedFlagError as error:
    fail(f'there is no flag --{error.flagname}{_hint(error.flagname)}')
  except flags.Error as error:
    fail(str(error).removeprefix('flag '))
  if _VERBOSE.value:
    _FIELDS.append(('training.verbose', 'true'))
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}: give flags, as --config=<file>')
  if asks_help:
    own = flags.FLAGS.get_key_flags_for_module(__name__)
    print(help.main_help(argv[0], own))
    sys.exit()
  for flag, more in ((_MODE, ['list']), (_HELP_MODE, [])):
    value, names = flag.value, [*modes.names(), *more]
    if value is not None and value not in names:
      fail(f'--{flag.name}={value}{near(value, names)} is not one of {", ".join(names)}')
  for flag in (_CONFIG, _WORKDIR):
    try:
      place = flag.value and RunFolder.at(expanded(flag.value)).path
      flags.FLAGS[flag.name].value = place and str(place)
    except (ValueError, UserError) as error:
      fail(f'--{flag.name}: {error}')
  if _MODE.value == 'list':
    print(help.list_configs())
    sys.exit()
  return rest


def _hint(name):
  # Returns what a flag that does not exist may mean.
  ours = flags.FLAGS.get_key_flags_for_module(__name__)
  flag = nearest(name, [flag.name for flag in ours], cutoff=0.85)
  if not flag:
    usual = store.completed({})
    fields = [*usual.paths(), *usual.schema.aliases]
    is_path = name.partition('.')[0] in fields
    flag = [f'config.{x}' for x in ([name] if is_path else paths_near(name, fields))]
  return meant(f'--{x}' for x in flag) or ': --help lists them'


def find_config(name: str | None, needed: bool) -> tuple[str, str]:
  """Returns (path, argument) of --config; the path may be a run folder.

  Both are '' without --config, which is an error if `needed`. A file is
  configs/<name>.py in the working folder, or else the installed one. Installed
  files import one another as `configs`; the user's files may do the same if the
  working folder has no package of this name.
  """
  if not name:
    if not needed:
      return '', ''
    fail('which experiment? Give --config=configs/digits.py, for instance')
  path, _, argument = (name, '', '') if Path(name).is_dir() else name.partition(':')
  if Path(path).is_dir():
    if argument:
      fail(f'{path} is a run: it has no variant :{argument}')
    return path, ''
  files, own = folder.config_files(), Path(path).is_file()
  installed = files.get(str(Path(path)))
  if own or installed:
    nearer = own and Path('configs', 'base.py').is_file()
    place = Path('configs') if nearer else folder.installed_configs()
    sys.modules['configs'] = configs = ModuleType('configs')
    configs.__path__ = [str(place.resolve())]
    return path if own else str(installed), argument
  stems = {Path(file).stem: file for file in files}
  hint = meant(repr(stems[stem]) for stem in nearest(Path(path).stem, stems))
  fail(f'there is no config file or run {path}{hint}; --mode=list names the configs')


def of_machine(error: Exception) -> str:
  """Returns a line about an error of this machine, '' for any other."""
  text = str(error).strip().partition('\n')[0]
  if isinstance(error, MemoryError) or fills_device(error):
    return (
      f'out of memory: {text}. Try training.machine.accumulate=2, network.remat=True, smaller '
      'batches, or XLA_PYTHON_CLIENT_MEM_FRACTION=.95 on a GPU; examples/plan.py measures a step'
    )
  try:
    jax.devices()
  except Exception as reason:  # an AssertionError, for instance
    text = str(reason).partition('\n')[0] or 'JAX finds no such device'
    return f'JAX_PLATFORMS={jax.config.values["jax_platforms"]}: {text}'
  return ''


def unraisable(ignored: 'sys.UnraisableHookArgs') -> None:
  """Reports an ignored exception, unless it follows a failed save.

  The failure itself is raised; afterwards each thread of tensorstore reports
  that the event loop is closed, or that it could not be opened.
  """
  if not re.search('Event loop is closed|_ssock', str(ignored.exc_value)):
    sys.__unraisablehook__(ignored)


def fail(message: str, code: int = 2) -> NoReturn:
  """Prints one line on stderr and exits without waiting for other processes."""
  host = processes.name()
  print(f'error{host}: {" ".join(one_line(run_folder.named(message)).split())}', file=sys.stderr)
  processes.exit_all(code)


def run() -> None:
  """Parses the command line, and runs `main` with absl."""
  sys.unraisablehook = unraisable
  start_up.open_streams()
  compiling.hide_warnings()
  start_up.keep_freed_memory()
  gc.freeze()  # Python never searches what is imported for cycles.
  sys.path.append(os.getcwd())  # An installed script does not import from it.
  app.run(main, flags_parser=parse)
