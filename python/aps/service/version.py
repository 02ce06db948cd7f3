"""The version that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("aps-scheduler")
except PackageNotFoundError:  # run from its sources, never installed
    VERSION = "0+source"
