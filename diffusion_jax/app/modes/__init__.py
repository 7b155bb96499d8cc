"""The modes of the command line, a row each.

Another package adds a mode by an entry point of the group
`diffusion_jax.modes`, whose object is a `Mode` (docs/parts.md).
"""

import functools
import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.app.config import overrides, trust
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.roles import NOT_READ, OF_TRAINING, USES
from diffusion_jax.app.kinds.sections import Top
from diffusion_jax.errors import UserError
from diffusion_jax.paths import READ
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import loggers

GROUP = 'diffusion_jax.modes'


class Mode(NamedTuple):
  """A mode, and what the command line must know of it before it is imported.

  run: module:function, of (config, `RunFolder`). uses_a_run: whether the model is
  a trained run's, which `cli.start` opens for run; otherwise the config describes
  it. single_host: whether it works in one process only. reads:
  the sections of the config that say how it works. extra: the extra of this
  package that installs its libraries. writes: whether its results are in the
  run folder. computes: whether it calls the network, so that data and precision matter.
  for_training: whether it prepares a training, whose command it takes. trains: whether it trains.
  """

  name: str
  run: str
  uses_a_run: bool = False
  single_host: bool = True
  reads: tuple[str, ...] = ()
  extra: str = ''
  writes: bool = False
  computes: bool = True
  for_training: bool = False
  trains: bool = False

  @property
  def module(self) -> str:
    """The module of `run`, whose docstring begins with what the mode does."""
    return self.run.partition(':')[0]

  def check_trust(self, config: Node) -> None:
    """Raises UserError for what only a stored config names, and the mode would read or send to.

    A run that another one names is asked for where it is opened, and data where
    they are read: most modes need none.
    """
    sections = [config.get(name) for name in self.reads if name != 'data']
    trust.check_paths(*(x for section in sections if section for x in section.paths_read(READ)))
    if self.trains:
      names = config.training.log_to
      trust.check_senders('training.log_to', names, loggers.senders(names))

  def is_read(self, path: str) -> bool:
    """Returns whether the mode reads a field, or keeps it in the config.json of the run."""
    section, _, field = path.partition('.')
    if section in self.reads or section in parameters(Top):
      return True
    if self.for_training:
      return MODES['train'].is_read(path)
    if not self.uses_a_run:
      return section not in NOT_READ
    of_training = section == 'training' and not field.startswith('machine.')
    of_training |= path.startswith(OF_TRAINING)
    return self.computes and not of_training and section not in USES

  def check_given(self, config: Node, workdir: RunFolder, given: Collection[str]) -> None:
    """Raises UserError for a flag that the mode does not read.

    given: the fields of all flags. A flag with the value of the run says nothing, and is taken.
    """
    for path in given:
      if not self.is_read(overrides.spelled(path, config.schema)):
        value = store.set_in(config, workdir, path)
        if value is not None:
          raise UserError(
            f'config.{path}={value} has no effect with --mode={self.name}: leave it out'
          )

  def __call__(self, *args: Any) -> None:
    """Runs the mode; args: the run, or config and run folder. Imports its module."""
    try:
      EntryPoint(self.name, self.run, GROUP).load()(*args)
    except ModuleNotFoundError as error:
      if not self.extra:
        raise
      needed = f"pip install -e '.[{self.extra}]'"
      raise UserError(f'--mode={self.name} needs {error.name}: {needed}') from error


def _mode(name, *reads, module='', **options):
  module = module or f'{__name__}.{name}'
  return Mode(name, f'{module}:main', reads=reads, **options)


_OF_TRAINING = 'evaluation', 'sampling', 'report', 'latent'
_TRAIN = 'diffusion_jax.app.train.mode'
_EDIT = 'diffusion_jax.app.edit.mode'
_EVALUATE = 'diffusion_jax.app.evaluate.mode'

_ROWS = (
  _mode('train', *_OF_TRAINING, module=_TRAIN, single_host=False, trains=True),
  _mode('sample', 'sampling', uses_a_run=True, single_host=False, writes=True),
  _mode('edit', 'edit', 'sampling', module=_EDIT, uses_a_run=True, writes=True),
  _mode(
    *('evaluate', 'evaluation', 'sampling'),
    module=_EVALUATE,
    uses_a_run=True,
    single_host=False,
    writes=True,
  ),
  _mode('explain', 'evaluation', 'sampling', uses_a_run=True, writes=True),
  _mode('average', 'average', uses_a_run=True, computes=False),
  _mode('band', 'band', *_OF_TRAINING, for_training=True, trains=True),
  _mode('report', 'report', 'sampling', uses_a_run=True, writes=True),
  _mode('encode', 'data', 'latent', for_training=True),
  _mode('convert', 'convert'),
  _mode('serve', 'serve', 'sampling', uses_a_run=True, extra='serve'),
)
MODES = {row.name: row for row in _ROWS}


def reads(mode: Mode, section: str) -> bool:
  """Returns whether a mode reads a section; a training reads all of the model."""
  return section in mode.reads or mode.trains and section not in USES


@functools.cache  # reading the metadata of all packages takes 20 ms
def _others(places):
  return sorted(entry_points(group=GROUP).names - MODES.keys())


def names() -> list[str]:
  """Returns the names of all modes, of this package first."""
  return [*MODES, *_others(tuple(sys.path))]


def find(name: str) -> Mode:
  """Returns the mode with one of the `names`.

  Raises UserError if it is another package's and cannot be imported.
  """
  if name in MODES:
    return MODES[name]
  point = next(iter(entry_points(group=GROUP, name=name)))
  package = point.dist.name if point.dist else point.module
  try:
    mode = point.load()
  except Exception as error:  # the other package may raise anything
    raise UserError(f'--mode={point.name} of {package} cannot be imported: {error}') from error
  if not isinstance(mode, Mode) or mode.name != point.name:
    raise UserError(
      f'--mode={point.name} of {package}: {point.value} must be a '
      f'diffusion_jax.app.modes.Mode with the name {point.name!r}'
    )
  return mode
