"""Runs `python -m module args` in this process."""

import contextlib
import io
import runpy
import subprocess
import sys
from unittest import mock


def run(module, *args):
  """Returns the command's code and output; it saves the time of imports."""
  argv = [module.__file__, *map(str, args)]
  code, out, err = 0, io.StringIO(), io.StringIO()
  with (
    mock.patch.object(sys, 'argv', argv),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    try:
      runpy.run_path(module.__file__, run_name='__main__')
    except SystemExit as stop:
      code = stop.code or 0
      if isinstance(code, str):  # The interpreter prints it.
        print(code, file=sys.stderr)
        code = 1
  return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
