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
  np.ones(2**24, np.float32)  # 64 MiB, freed at once
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == 'keep' and not keep_freed_memory():
  print('unknown')
else:
  pages()
  print(pages())
"""


def mapped(how, **variables):
  command = [sys.executable, '-c', CODE, how]
  environment = os.environ | variables
  out = subprocess.run(
    command, capture_output=True, text=True, check=True, env=environment
  )
  return out.stdout.strip()


def test_a_freed_block_is_used_again_without_new_pages():
  kept = mapped('keep')
  if kept == 'unknown':
    pytest.skip('the C library is not glibc')
  assert int(kept) < 10
  assert int(mapped('as it is')) > 25  # 32 pages of 2 MiB, or more of 4 KiB


def test_variables_of_the_user_are_left_as_they_are():
  assert mapped('keep', MALLOC_ARENA_MAX='4') == 'unknown'
