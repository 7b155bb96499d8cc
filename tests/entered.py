"""Prints the files of the package that a command enters, which its reader has to read.

  python -m tests.entered --config=runs/digits --mode=sample --config.sampling.num_samples=4
  python -m tests.entered loss

The second traces the loss of configs/digits.py:smoke. A file counts if one of its functions
is called; what runs at its import does not count.
"""

import inspect
import os
import sys
import tempfile
import threading

import diffusion_jax

PACKAGE = os.path.dirname(diffusion_jax.__file__) + os.sep


def watched(function):
  """Calls a function; prints the files that it entered, also if it ends the process."""
  codes = set()

  def note(frame, event, arg):
    if event == 'call':
      codes.add(frame.f_code)

  def show():
    sys.setprofile(None)
    functions = (code for code in codes if code.co_flags & inspect.CO_OPTIMIZED)
    named = {code.co_filename for code in functions}  # not modules, nor bodies of classes
    inside = (name.removeprefix(PACKAGE) for name in named if name.startswith(PACKAGE))
    paths = sorted(name for name in inside if name.endswith('.py'))
    print(*(f'entered {path}' for path in paths), sep='\n', flush=True)

  leave = os._exit

  def shown_exit(code):
    show()
    leave(code)

  os._exit = shown_exit
  threading.setprofile(note)
  sys.setprofile(note)
  try:
    function()
  finally:
    show()


def loss():
  """Returns the function that traces the loss of the U-Net of the digits."""
  import jax

  from diffusion_jax.app.config import experiments
  from diffusion_jax.app.inputs import datasets
  from diffusion_jax.app.kinds import store
  from diffusion_jax.app.smoke import shrunk
  from diffusion_jax.app.train import setup
  from diffusion_jax.runtime.run_folder import RunFolder
  from diffusion_jax.training.objectives import Context

  config = shrunk(store.completed(experiments.from_file('configs/digits.py')), [])
  parts = setup.prepare(config, RunFolder.at(tempfile.mkdtemp()))
  batch = dict(next(datasets.batches(parts.config, *parts.examples, 0)))
  jax.clear_caches()
  trace = jax.make_jaxpr(lambda params, key, x: parts.objective(params, Context(), key, x))
  return lambda: trace(parts.shapes.params, jax.random.key(0), batch)


def program():
  """Returns the function of the program, with its modules imported."""
  import diffusion_jax.app.cli
  import diffusion_jax.app.evaluate.mode
  import diffusion_jax.app.modes.sample
  import diffusion_jax.app.train.mode

  return diffusion_jax.app.start


if __name__ == '__main__':
  watched(loss() if sys.argv[1:] == ['loss'] else program())
