"""The program around the library: everything that knows a config."""
