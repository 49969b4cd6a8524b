"""The API's OpenAPI document: what FastAPI knows of the routes, with the request as it must be at the moment."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from serving.api.guard import PUBLIC_PATHS
from serving.api.problems import Problem
from serving.api.schema import Request

_PROBLEMS = {
    400: "The request is not HTTP as it should be",
    401: "The key is missing or wrong",
    404: "No row has one of the keys",
    405: "Not a method of this path",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "The body is not a request",
    500: "Something went wrong",
    503: "Too many requests wait, or features cannot be looked up",
    504: "The answer took too long",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's answers that are none, for FastAPI."""
    return {status: {"model": Problem, "description": _PROBLEMS[status]} for status in statuses}


def build_openapi(app: FastAPI, request_schema: TypeAdapter[Request]) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schema = request_schema.json_schema(ref_template="#/components/schemas/{model}")
    components = made["components"]
    components["schemas"] |= schema.pop("$defs") | {"Request": schema}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"key": []}]
    for path in PUBLIC_PATHS:
        made["paths"][path]["get"]["security"] = []
    body = {"schema": {"$ref": "#/components/schemas/Request"}}
    made["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": {"application/json": body}}
    return made
