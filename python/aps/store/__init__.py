"""What outlives the process, in SQLite or PostgreSQL: tenants, keys, usage by the hour, where the scheduler stood."""
