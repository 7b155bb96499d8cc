"""From loss to weights. Networks come in as functions."""
