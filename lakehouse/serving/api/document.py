"""OpenAPI document of the API: FastAPI's routes, with the current schema of requests."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from lakehouse.serving.api.guard import PUBLIC_PATHS
from lakehouse.serving.api.problems import Problem
from lakehouse.serving.api.schema import PredictionRequest

_PROBLEMS = {
    400: "The request is not valid HTTP",
    401: "The key is missing or wrong",
    404: "No row has one of the keys",
    405: "The path does not have this method",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "The body is not a valid request",
    500: "Internal error",
    503: "Too many rows are pending, or features cannot be looked up",
    504: "The answer took too long",
}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route's error responses for FastAPI."""
    return {status: {"model": Problem, "description": _PROBLEMS[status]} for status in statuses}


def build_openapi(app: FastAPI, request_schema: TypeAdapter[PredictionRequest]) -> dict[str, Any]:
    """Build the document for the given schema of requests."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schema = request_schema.json_schema(ref_template="#/components/schemas/{model}")
    components = document["components"]
    components["schemas"] |= schema.pop("$defs") | {"Request": schema}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for path in PUBLIC_PATHS:
        document["paths"][path]["get"]["security"] = []
    body = {"schema": {"$ref": "#/components/schemas/Request"}}
    document["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": {"application/json": body}}
    return document
