"""The HTTP service (FastAPI). Needs the extra `service`: `pip install "aps-scheduler[service]"`."""
