"""C functions only (inspection.pxd): what `Scheduler.explain` and `Scheduler.snapshot` return."""
