"""A FastAPI service that calls another one, wherever that is right now.

    uvicorn --app-dir examples fastapi_caller:app --port 8000
    curl localhost:8000/hello/Ada

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs fastapi, uvicorn, httpx.
"""

from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from aioregistry import Registry
from aioregistry.integrations.fastapi import connect, get_client
from aioregistry.integrations.httpx import RegistryTransport


def balanced(registry: Registry) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=RegistryTransport(registry), timeout=5)


app = FastAPI(lifespan=connect(client=balanced))


@app.exception_handler(httpx.TransportError)
async def unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Nobody provides the service, or it cannot be reached: the client may try again."""
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})


@app.get("/hello/{name}")
async def hello(name: str, client: Annotated[httpx.AsyncClient, Depends(get_client)]) -> Any:
    response = await client.get(f"http://greeter/greet/{name}")
    return response.raise_for_status().json()
