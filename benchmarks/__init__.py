"""Side-by-side timings; figures and machines in docs/performance.md."""
