import os
import subprocess
import sys

import pytest

from diffusion_jax.runtime import memory

CODE = f"""
import resource, runpy, sys
import numpy as np
keep_freed_memory = runpy.run_path({memory.__file__!r})['keep_freed_memory']

def pages():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  x = np.empty(int(sys.argv[2]), np.float32)
  x[:: 2**18] = 1.0  # one page a MiB
  del x
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == 'keep' and not keep_freed_memory():
  print('unknown')
else:
  pages()
  print(pages())
"""


def mapped(how, size=2**24, **variables):
  command = [sys.executable, '-c', CODE, how, str(size)]
  environment = os.environ | {'NUMPY_MADVISE_HUGEPAGE': '0'} | variables
  out = subprocess.run(
    command, capture_output=True, text=True, check=True, env=environment
  )
  return out.stdout.strip()


@pytest.mark.parametrize('size', [2**24, 3 * 2**28])  # 64 MiB, 3 GiB
def test_a_freed_block_is_used_again_without_new_pages(size):
  kept = mapped('keep', size)
  if kept == 'unknown':
    pytest.skip('the C library is not glibc')
  assert int(kept) < 10
  assert int(mapped('as it is', size)) > 25  # a page a MiB, or larger ones


def test_variables_of_the_user_are_left_as_they_are():
  assert mapped('keep', MALLOC_ARENA_MAX='4') == 'unknown'
