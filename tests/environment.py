"""The environment in which tests run: simulated devices, cheap compilations, a cache of programs.

It is set before JAX is imported, here and in the processes that tests start. `pytest -m device`
uses the real devices, compiled as for users.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

if 'device' in sys.argv:
  os.environ['TEST_ON_DEVICE'] = '1'
if not os.environ.get('TEST_ON_DEVICE'):
  os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
  # Tests compile much and compute little. The lowest level halves the time of a
  # compilation, disabling the fusion emitters halves it again, and one LLVM
  # module instead of 32 saves a little more.
  if os.environ.get('TEST_XLA_OPTIMIZATION') != 'default':
    os.environ['XLA_FLAGS'] += (
      ' --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
    )
    if version('jaxlib').startswith('0.10.'):  # Others exit at an unknown flag.
      os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
  os.environ['JAX_PLATFORMS'] = 'cpu'
_CACHE = Path(__file__).parent.parent / '.jax_cache'
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_CACHE)
os.environ['XDG_CACHE_HOME'] = str(_CACHE / 'user')
# Also stores single operations, for the other worker and processes of tests.
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

# The threads of OpenBLAS wait for each other by turning: decompositions of many
# small matrices take 5 to 80 times the processor time.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

# Without bytecode each process that tests start takes 5 s more to import.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False
