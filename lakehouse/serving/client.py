"""Client of the prediction API for the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import requests

from lakehouse.errors import ModelError, SettingsError, redact_password
from lakehouse.serving.api.server import KEY_VARIABLE, read_api_key

URL_VARIABLE: Final = "SERVING_API_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8000"
# Time limits to connect and to answer. The API's own limit is ten seconds.
SECONDS: Final = (2.0, 15.0)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Client:
    """Client of the API at ``url``. The messages of its errors are shown to the page's readers.

    Both methods raise:
        ModelError: The API does not answer, or gives no prediction.
        SettingsError: The API refuses the key.
    """

    url: str
    key: str = field(repr=False)

    def get_model(self) -> dict[str, Any]:
        """Return the versions in service, as `lakehouse.serving.api.schema.ModelInfo`."""
        info: dict[str, Any] = self._send("GET", "/model")
        return info

    def predict(self, request_id: str, kind: str, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """Return a `lakehouse.serving.api.schema.Prediction` per row.

        Args:
            request_id: Requests with the same id get the same version of the model.
            kind: Form of the rows, "keys" or "features".
        """
        answer = self._send("POST", "/predict", {kind: rows}, {"X-Request-ID": request_id})
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions

    def _send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        api = f"The prediction API at {redact_password(self.url)}"
        try:
            with requests.Session() as session:
                session.trust_env = False  # the key must not go to a proxy, and .netrc must not replace it
                all_headers = {"Authorization": f"Bearer {self.key}", **(headers or {})}
                answer = session.request(
                    method, f"{self.url}{path}", json=body, headers=all_headers, timeout=SECONDS, allow_redirects=False
                )
        except requests.RequestException as error:
            failure = "takes too long" if isinstance(error, requests.ReadTimeout) else "does not answer"
            raise ModelError(
                f"{api} {failure}. Start it with `lakehouse serve` (before the first time: `lakehouse train`), "
                f"or set {URL_VARIABLE} to its address."
            ) from error
        if answer.status_code == requests.codes.unauthorized:
            raise SettingsError(
                f"{api} refuses the key. {KEY_VARIABLE} must be the same for "
                "`lakehouse serve` and `lakehouse app`; restart both after a change."
            )
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.ok and isinstance(content, dict):
            return content
        detail = content.get("detail") if isinstance(content, dict) else None
        reason = detail or f"unexpected content. Check that {URL_VARIABLE} is the address of `lakehouse serve`."
        raise ModelError(f"{api} gives no prediction (status {answer.status_code}): {reason}")


def make_client() -> Client:
    """Create a client from the environment's variables.

    Raises:
        SettingsError: The key is missing, or the address is invalid.
    """
    url = os.environ.get(URL_VARIABLE, "") or DEFAULT_URL
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{URL_VARIABLE}={redact_password(url)!r} is not a valid address. Begin it with http:// or https://."
        )
    return Client(url.rstrip("/"), read_api_key())
