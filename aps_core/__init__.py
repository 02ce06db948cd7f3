"""The compiled core of APS: pure decisions over NumPy arrays, without clock, I/O or asyncio."""
