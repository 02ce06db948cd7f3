"""Microbenchmarks of the core against named peers, interleaved in one run; `python loadtests/micro/run.py --help`."""
