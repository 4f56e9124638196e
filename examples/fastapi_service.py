"""A FastAPI service that announces itself, and withdraws before it stops.

    python examples/fastapi_service.py --port 8001
    uvicorn --app-dir examples fastapi_service:app --host 0.0.0.0 --port 8001      # the same

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs fastapi, uvicorn.
"""

import argparse

import uvicorn
from fastapi import FastAPI, Request

from aioregistry.integrations.fastapi import readiness, register

app = FastAPI(lifespan=register(None, "greeter", version="1.0.0"))
app.add_route("/ready", readiness())


@app.get("/greet/{name}")
async def greet(name: str, request: Request) -> dict[str, str]:
    host, port = request.scope["server"]  # where this request came in
    return {"greeting": f"Hello {name}", "from": f"{host}:{port}"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    uvicorn.run(app, host="0.0.0.0", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
