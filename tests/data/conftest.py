"""Official archives without a network, for tests of data sets."""

import pytest

from tests.data import archives


@pytest.fixture
def no_network(monkeypatch):
  """Makes any attempt to reach the network fail, and lists the attempts."""
  import requests

  attempts = []

  def refuse(url, **kwargs):
    attempts.append((url, kwargs))
    raise requests.ConnectionError('no network in tests')

  monkeypatch.setattr(requests, 'head', refuse)
  monkeypatch.setattr(requests.Session, 'send', refuse)
  return attempts


@pytest.fixture
def accept(monkeypatch):
  """Returns a function that adds files to the table of official checksums."""
  from tensorflow_datasets.core.download import checksums

  def enter(folder, urls):
    for url in urls:
      info = checksums.compute_url_info(folder / url.rpartition('/')[-1])
      monkeypatch.setitem(checksums.get_all_url_infos(), url, info)

  return enter


@pytest.fixture
def manual(tmp_path):
  return tmp_path / 'downloads' / 'manual'


@pytest.fixture
def written(manual, no_network, accept):
  written = archives.cifar10(manual)
  accept(manual, ['https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'])
  return written
