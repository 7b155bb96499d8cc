"""Side-by-side timings; figures and machines in docs/results.md."""
