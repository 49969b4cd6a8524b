"""The prediction API as the page asks it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import requests

from lakehouse.errors import ModelError, SettingsError, redact_password
from serving.api.server import KEY_VARIABLE, read_api_key

URL_VARIABLE: Final = "SERVING_API_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8000"
# To connect, and to answer: the API itself gives up after ten.
SECONDS: Final = (2.0, 15.0)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Client:
    """What `url` answers to those who show the key. Both methods raise ModelError where there is no answer, and SettingsError
    where the key is refused; their texts are for the page's readers."""

    url: str
    key: str = field(repr=False)

    def model(self) -> dict[str, Any]:
        """What is in service: see `serving.api.schema.ModelInfo`."""
        info: dict[str, Any] = self._request("GET", "/model")
        return info

    def predict(self, request_id: str, kind: str, rows: Sequence[Values]) -> list[dict[str, Any]]:
        """The answers for rows by their ``kind``, "keys" or "features": see `serving.api.schema.Prediction`.

        Requests with the same id are answered by the same version of the model.
        """
        answer = self._request("POST", "/predict", {kind: rows}, {"X-Request-ID": request_id})
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions

    def _request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no .netrc has a say in where the key goes
                told = {"Authorization": f"Bearer {self.key}", **(headers or {})}
                answer = session.request(
                    method, f"{self.url}{path}", json=body, headers=told, timeout=SECONDS, allow_redirects=False
                )
        except requests.RequestException as error:
            slow = isinstance(error, requests.ReadTimeout)
            raise ModelError(
                f"The prediction API at {redact_password(self.url)} {'takes too long' if slow else 'does not answer'}. "
                f"Start it with `lakehouse serve` (before the first time: `lakehouse train`), or set {URL_VARIABLE} to where it is."
            ) from error
        if answer.status_code == requests.codes.unauthorized:
            raise SettingsError(
                f"The prediction API at {redact_password(self.url)} refuses the key. {KEY_VARIABLE} must be the same for "
                "`lakehouse serve` and for `lakehouse app`; start them again after a change."
            )
        try:
            said = answer.json()
        except ValueError:
            said = None
        if answer.ok and isinstance(said, dict):
            return said
        detail = said.get("detail") if isinstance(said, dict) else None
        raise ModelError(
            f"The prediction API at {redact_password(self.url)} gives no prediction (status {answer.status_code}): "
            f"{detail or 'what it says is not what it should: is it `lakehouse serve`?'}"
        )


def make_client() -> Client:
    """The API that the environment names.

    Raises:
        SettingsError: there is no key, or the address is none.
    """
    url = os.environ.get(URL_VARIABLE, "") or DEFAULT_URL
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{URL_VARIABLE}={redact_password(url)!r} is no address: it must begin with http:// or https://."
        )
    return Client(url.rstrip("/"), read_api_key())
