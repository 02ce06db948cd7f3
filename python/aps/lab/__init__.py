"""The laboratory: workloads, simulation in virtual time, comparisons and reports. Needs the extra `lab`."""
