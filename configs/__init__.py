"""One file per experiment; `base.py` has every field once."""
