"""The stress test: a client of a running service, and the figures it reports. Needs the extra `service`."""
