"""Routes of the prediction API."""

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
from lakehouse.serving.api import metrics, schema
from lakehouse.serving.api.document import build_openapi, describe_problems
from lakehouse.serving.api.guard import Guard, get_request_id
from lakehouse.serving.api.journal import Entry, Journal
from lakehouse.serving.api.lookups import Lookups
from lakehouse.serving.api.problems import CLOSE_CONNECTION, MAX_FAULTS, Fault, RequestError, to_request_error
from lakehouse.serving.api.schema import Answer, Health, Key, ModelInfo, Row, Version
from lakehouse.serving.api.watcher import ModelWatcher, ServedModel, ServingState

logger = logging.getLogger(__name__)
BODY_BYTES: Final = 1_000_000
BODY_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Service:
    """Objects that the routes use.

    Attributes:
        refresh_seconds: Time between two checks of the registry.
    """

    task: Task
    watcher: ModelWatcher
    lookups: Lookups
    journal: Journal
    refresh_seconds: float


def create_app(service: Service, key: str, seconds: float = REQUEST_SECONDS) -> FastAPI:
    """Create the application.

    The application watches the registry and writes the journal while it runs. Its shutdown waits for both.

    Args:
        key: The key that callers must send.
        seconds: Time limit of a request.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.watcher.watch(service.refresh_seconds)
        service.journal.begin()
        yield
        await asyncio.to_thread(service.watcher.close)
        await asyncio.to_thread(service.journal.close)

    app = FastAPI(
        title=f"Predictions of {service.task.name}",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        description="The probability of the label for rows by their features or their keys.",
        responses=describe_problems(500, 504),
    )
    app.add_middleware(Guard, key=key, seconds=seconds)
    app.add_exception_handler(HTTPException, _handle_routing_error)
    app.openapi = lambda: build_openapi(app, service.watcher.state.request_type)  # type: ignore[method-assign]
    _add_predict(app, service)
    _add_info_routes(app, service)
    return app


async def _handle_routing_error(request: Request, error: Exception) -> Response:
    """Return a routing error in the shape of every other problem."""
    assert isinstance(error, HTTPException)
    return RequestError(error.status_code, str(error.detail), headers=error.headers).to_response(
        get_request_id(request)
    )


def _add_predict(app: FastAPI, service: Service) -> None:
    problems = describe_problems(400, 401, 404, 408, 413, 415, 422, 503)

    @app.post("/predict", response_model=Answer, responses=problems, summary="Predict rows by features or by keys")
    async def predict(request: Request) -> Response:
        request_id = get_request_id(request)
        state, model = service.watcher.route(request_id)
        content = _parse_request(state, await _read_body(request))
        keys, version, rows = await _resolve_rows(service, model, content)
        probabilities = await model.predict(rows)
        loaded, columns, alias = model.loaded, model.columns.names, model.alias
        service.journal.put(
            Entry(request_id, datetime.now(UTC), loaded.version, alias, columns, rows, probabilities, keys, version)
        )
        metrics.PREDICTIONS.labels(loaded.version, alias).inc(len(rows))
        request.state.summary = f"{alias} {loaded.version}, {len(rows)} rows"
        shared = {"model_version": loaded.version, "alias": alias, "feature_version": version}
        predictions = [
            {"probability": probability, **shared, "unknown": model.find_unknown_columns(row)}
            for probability, row in zip(probabilities, rows, strict=True)
        ]
        return _respond_json({"request_id": request_id, "predictions": predictions})


def _parse_request(state: ServingState, body: bytes) -> schema.PredictionRequest:
    """Parse the body of a request.

    Raises:
        RequestError: The body is not a valid request.
    """
    try:
        schema.check_widths(body, len(state.column_types))
        request = state.request_type.validate_json(body)
    except ValidationError as error:
        raise to_request_error(error) from None
    if len(request) != 1:
        raise RequestError(422, schema.EITHER_MESSAGE)
    return request


async def _resolve_rows(
    service: Service, model: ServedModel, request: schema.PredictionRequest
) -> tuple[list[Key], int | None, Sequence[Row]]:
    """Return the keys, the version of the feature table, and the rows in the model's form.

    Rows that are sent by features have no keys and no version.

    Raises:
        RequestError: A key has no row, or the feature table cannot be read.
    """
    if "features" in request:
        return [], None, [model.make_row(values) for values in request["features"]]
    task = service.task
    requested = [(tuple(key[name] for name in task.key), key.get(task.time_column)) for key in request["keys"]]
    columns = tuple(model.columns.names)
    with _translate_lookup_errors():
        cached = service.lookups.find_cached(requested, columns)
        rows, version = cached if cached else await asyncio.to_thread(service.lookups.find, requested, columns)
    if missing := [position for position, lookup in enumerate(requested) if lookup not in rows]:
        table = f"{task.feature_table} version {version}"
        faults = [
            Fault(
                location=f"keys.{position}",
                message=f"There is no row with {to_json(request['keys'][position]).decode():.500}",
            )
            for position in missing[:MAX_FAULTS]
        ]
        raise RequestError(404, f"{table} has no row for {len(missing)} of the {len(requested)} keys.", faults)
    return [key for key, _ in requested], version, [rows[lookup] for lookup in requested]


@contextmanager
def _translate_lookup_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.exception("lookup of features failed")
        raise RequestError(503, "Features cannot be looked up at the moment.", headers={"Retry-After": "5"}) from error


async def _read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        RequestError: The content type is not JSON, or the body is too large or too slow.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "Send application/json.", headers=CLOSE_CONNECTION)
    too_large = RequestError(413, f"A request may have {BODY_BYTES:,} bytes.", headers=CLOSE_CONNECTION)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise RequestError(
            408, f"The request did not come within {BODY_SECONDS:g} seconds.", headers=CLOSE_CONNECTION
        ) from None
    return bytes(body)


def _add_info_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Check that the process answers")
    async def health() -> Health:
        return Health(status="ok")

    @app.get("/ready", summary="Check that a model is in service")
    async def ready() -> Health:
        return Health(status="ready")

    @app.get(
        "/model",
        response_model=ModelInfo,
        responses=describe_problems(401, 503),
        summary="Describe the models in service",
    )
    async def model() -> Response:
        state, task = service.watcher.state, service.task
        with _translate_lookup_errors():
            features = await asyncio.to_thread(lambda: service.lookups.features)
        info = ModelInfo(
            task=task.name,
            serving=[_describe_version(model) for model in (state.champion, state.challenger) if model],
            canary=service.watcher.canary,
            feature_table=task.feature_table,
            feature_version=features.version,
            key=list(task.key),
            time=task.time_column,
        )
        return _respond_json(info)

    @app.get(
        "/metrics", responses=describe_problems(401), response_class=Response, summary="Read metrics for Prometheus"
    )
    async def read_metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _describe_version(model: ServedModel) -> Version:
    loaded, columns = model.loaded, model.columns.names
    return Version(
        alias=model.alias,
        version=loaded.version,
        run_id=loaded.run_id,
        module=loaded.model.__name__,
        input_columns=columns,
        typical={name: loaded.typical.get(name) for name in columns},
        since=model.since,
    )


def _respond_json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")
