"""Buckets of both servers, for tests of `run_folder` and `twins`."""

import hashlib

import pytest

from diffusion_jax.runtime import run_folder, twins
from tests.bucket_server import Amazon, Google, running


@pytest.fixture(scope='module', params=[Google, Amazon])
def server(request, tmp_path_factory):
  with running(request.param, tmp_path_factory.mktemp('server')) as server:
    yield server


@pytest.fixture
def address(server, request, monkeypatch):
  """An address without a run."""
  monkeypatch.setattr(run_folder, '_twins', {})
  monkeypatch.setattr(run_folder, 'POLL', 0.01)
  monkeypatch.setattr(twins, 'PAUSE', 0.01)
  name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
  return f'{server.scheme}://bucket/{name}/run'
