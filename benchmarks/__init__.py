"""Benchmarks: each module has `rows()`, which yields `harness.Row`s one by one; `python -m benchmarks [NAME ...]` prints them."""
