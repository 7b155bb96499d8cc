"""One module for each family of models, with the same functions."""
