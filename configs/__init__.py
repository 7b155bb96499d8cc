r"""One experiment per file; base.py has what they have in common.

  python launch.py --config=configs/digits.py                 # train
  python launch.py --config=configs/digits.py --mode=sample   # sample the run
  python launch.py --config=configs/digits.py:smoke           # try, in seconds

Every experiment has these commands; its docstring names further ones. A trial
of CIFAR-10, MNIST, ImageNet or a folder needs no data: it generates pictures.
"""
