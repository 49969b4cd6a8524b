"""The routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from lakehouse.ml.task import Task
from serving.api import metrics, schema
from serving.api.document import build_openapi, problem_responses
from serving.api.guard import Guard, get_request_id
from serving.api.holding import ModelWatcher, ServedModel, ServingState
from serving.api.journal import Entry, Journal
from serving.api.lookups import Lookups
from serving.api.problems import CLOSE_CONNECTION, MAX_FAULTS, Fault, RequestError, to_request_error
from serving.api.schema import Answer, Health, Key, ModelInfo, Row, Version

logger = logging.getLogger(__name__)
BODY_BYTES: Final = 1_000_000
BODY_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Service:
    """What the routes work with. ``refresh_seconds`` lie between two looks at the registry."""

    task: Task
    watcher: ModelWatcher
    lookups: Lookups
    journal: Journal
    refresh_seconds: float


def create_app(service: Service, key: str, seconds: float = REQUEST_SECONDS) -> FastAPI:
    """The application: while it runs it watches the registry and writes its journal, which its end waits for."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        service.watcher.watch(service.refresh_seconds)
        service.journal.begin()
        yield
        await asyncio.to_thread(service.watcher.close)
        await asyncio.to_thread(service.journal.close)

    app = FastAPI(
        title=f"Predictions of {service.task.name}", version="1", lifespan=running, docs_url=None, redoc_url=None,
        redirect_slashes=False, description="The probability of the label for rows by their features or their keys.",
        responses=problem_responses(500, 504),
    )  # fmt: skip
    app.add_middleware(Guard, key=key, seconds=seconds)
    app.add_exception_handler(HTTPException, _routing_error)
    app.openapi = lambda: build_openapi(app, service.watcher.state.request_type)  # type: ignore[method-assign]
    _add_predict(app, service)
    _add_info_routes(app, service)
    return app


async def _routing_error(request: Request, error: Exception) -> Response:
    """What the routing says, in the shape of every other refusal."""
    assert isinstance(error, HTTPException)
    return RequestError(error.status_code, str(error.detail), headers=error.headers).response(get_request_id(request))


def _add_predict(app: FastAPI, service: Service) -> None:
    said = problem_responses(400, 401, 404, 408, 413, 415, 422, 503)

    @app.post("/predict", response_model=Answer, responses=said, summary="Predict rows by features or by keys")
    async def predict(request: Request) -> Response:
        request_id = get_request_id(request)
        now, held = service.watcher.route(request_id)
        asked = _parse_request(now, await _read_body(request))
        keys, version, rows = await _resolve_rows(service, held, asked)
        probabilities = await held.predict(rows)
        loaded, columns = held.loaded, held.columns.names
        service.journal.put(
            Entry(
                request_id, datetime.now(UTC), loaded.version, held.alias, columns, rows, probabilities, keys, version
            )
        )
        metrics.PREDICTIONS.labels(loaded.version, held.alias).inc(len(rows))
        request.state.said = f"{held.alias} {loaded.version}, {len(rows)} rows"
        shared = {"model_version": loaded.version, "alias": held.alias, "feature_version": version}
        predictions = [
            {"probability": probability, **shared, "unknown": held.unknown_columns(row)}
            for probability, row in zip(probabilities, rows, strict=True)
        ]
        return _json({"request_id": request_id, "predictions": predictions})


def _parse_request(state: ServingState, body: bytes) -> schema.Request:
    """The request in a body.

    Raises:
        Refused: it is none.
    """
    try:
        schema.check_widths(body, len(state.column_types))
        asked = state.request_type.validate_json(body)
    except ValidationError as error:
        raise to_request_error(error) from None
    if len(asked) != 1:
        raise RequestError(422, schema.EITHER_MESSAGE)
    return asked


async def _resolve_rows(
    service: Service, model: ServedModel, request: schema.Request
) -> tuple[list[Key], int | None, Sequence[Row]]:
    """The rows as the model takes them; by key, with the keys, and the version of the table that they were found in."""
    if "features" in request:
        return [], None, [model.make_row(sent) for sent in request["features"]]
    task = service.task
    wanted = [(tuple(sent[name] for name in task.key), sent.get(task.time_column)) for sent in request["keys"]]
    columns = tuple(model.columns.names)
    with _lookup_errors():
        kept = service.lookups.find_cached(wanted, columns)
        found, version = kept if kept else await asyncio.to_thread(service.lookups.find, wanted, columns)
    if missing := [place for place, one in enumerate(wanted) if one not in found]:
        table = f"{task.feature_table} version {version}"
        faults = [
            Fault(
                location=f"keys.{place}",
                message=f"There is no row with {to_json(request['keys'][place]).decode():.500}",
            )
            for place in missing[:MAX_FAULTS]
        ]
        raise RequestError(404, f"{table} has no row for {len(missing)} of the {len(wanted)} keys.", faults)
    return [key for key, _ in wanted], version, [found[one] for one in wanted]


@contextmanager
def _lookup_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.exception("features cannot be looked up")
        raise RequestError(503, "Features cannot be looked up at the moment.", headers={"Retry-After": "5"}) from error


async def _read_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        Refused: it is no JSON by its type, is too large, or takes too long to come.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "Send application/json.", headers=CLOSE_CONNECTION)
    large = RequestError(413, f"A request may have {BODY_BYTES:,} bytes.", headers=CLOSE_CONNECTION)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_BYTES:
                    raise large
    except TimeoutError:
        raise RequestError(
            408, f"The request did not come within {BODY_SECONDS:g} seconds.", headers=CLOSE_CONNECTION
        ) from None
    return bytes(body)


def _add_info_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process answers")
    async def health() -> Health:
        return Health(status="ok")

    @app.get("/ready", summary="Whether a model is in service")
    async def ready() -> Health:
        return Health(status="ready")

    @app.get("/model", response_model=ModelInfo, responses=problem_responses(401, 503), summary="What is in service")
    async def model() -> Response:
        now, task = service.watcher.state, service.task
        with _lookup_errors():
            features = await asyncio.to_thread(lambda: service.lookups.features)
        serving = [_version(one) for one in (now.champion, now.challenger) if one]
        info = ModelInfo(
            task=task.name, serving=serving, canary=service.watcher.canary, feature_table=task.feature_table,
            feature_version=features.version, key=list(task.key), time=task.time_column,
        )  # fmt: skip
        return _json(info)

    @app.get("/metrics", responses=problem_responses(401), response_class=Response, summary="For Prometheus")
    async def measured() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _version(model: ServedModel) -> Version:
    loaded, reads = model.loaded, model.columns.names
    return Version(
        alias=model.alias, version=loaded.version, run_id=loaded.run_id, module=loaded.model.__name__,
        input_columns=reads, typical={name: loaded.typical.get(name) for name in reads}, since=model.since,
    )  # fmt: skip


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")
