"""The program around the library: all that knows a config."""
