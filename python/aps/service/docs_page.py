"""`GET /docs`: the OpenAPI document for people. The service itself has Swagger UI: no browser needs the internet."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse

FOLDER = Path(fastapi_offline.__file__).parent / "static"
FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
KEPT = {"cache-control": "max-age=3600"}

# By relative links, so that a proxy may have the service below a path of its own.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>APS</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui">A script shows the OpenAPI document here: <a href="openapi.json">openapi.json</a></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true})
</script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


@router.get("/docs/{name}")
async def file(name: str) -> FileResponse:
    """What the page loads."""
    if name not in FILES:
        raise HTTPException(404)
    return FileResponse(FOLDER / name, headers=KEPT)
