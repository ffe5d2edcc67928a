"""Benchmarks beside their peers; `python -m benchmarks` runs all and records the results."""
