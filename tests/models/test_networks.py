"""The networks: encoding, streamed rows, early stopping, rejected files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from threadpoolctl import threadpool_limits

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import LabelledRows
from lakehouse.ml.metrics import evaluate
from models import _epochs, keras_network, network
from models._encoding import DESCRIPTION, Encoding, learn_encoding
from models._epochs import Batch, minibatches, spool
from models.late_arrival import EMBEDDED, TASK
from tests.example.departures import features_of, some_flights

FEW = ("carrier", "origin", "dest", "tailnum", "leg_dep_delay_min", "temp_f")
PARAMS = {"width": 16, "dropout": 0.1, "learning_rate": 0.01, "weight_decay": 0.01, "batch_rows": 32, "epochs": 3}
NETWORKS = pytest.mark.parametrize("model", [network, keras_network], ids=lambda model: model.__name__)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on busy cores threads wait seconds for each other, and a few hundred rows need only one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


class Streamed(LabelledRows):
    """Rows that cannot be read all at once."""

    @property
    def frame(self) -> pd.DataFrame:  # type: ignore[override]
        raise AssertionError("all rows were read at once")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Streamed, LabelledRows]:
    """Return six train weeks, with 1,638 labelled rows, and one validation week."""
    features = features_of(tmp_path_factory.mktemp("lake"), some_flights(days=49))
    columns = (*TASK.key, TASK.time_column, *network.FEATURES)
    train = Streamed(features, ("2013-10-18", "2013-11-28"), columns)
    return train, LabelledRows(features, ("2013-11-29", "2013-12-05"), columns)


@pytest.fixture(scope="module")
def stored(
    splits: tuple[LabelledRows, LabelledRows], tmp_path_factory: pytest.TempPathFactory
) -> dict[ModuleType, Path]:
    """Return the files of one network of each kind."""
    folders = {model: tmp_path_factory.mktemp(model.__name__) for model in (network, keras_network)}
    for model, folder in folders.items():
        model.save(fitted(model, splits, epochs=1), folder)
    return folders


def fitted(
    model: ModuleType, splits: tuple[LabelledRows, LabelledRows], curve: Any = lambda *_: None, **params: Any
) -> Any:
    return model.fit(*splits, features=FEW, params=PARAMS | params, seed=3, curve=curve)


def test_texts_become_codes_and_numbers_standardised() -> None:
    def rows(**columns: Any) -> pa.Table:
        return pa.table(columns)

    texts = ({"carrier": ["UA", "AA"], "dest": ["ORD", None]}, {"carrier": ["UA", None], "dest": ["BOS", "BOS"]})
    values = ({"seats": [1, 2], "late": [True, False]}, {"seats": [None, 3], "late": [True, True]})
    both = {"origin": ["EWR", "JFK"], "flat": [7.0, 7.0]}
    parts = [rows(**text, **value, **both) for text, value in zip(texts, values, strict=True)]
    encoding = learn_encoding(parts, ("carrier", "origin", "dest", "seats", "late", "flat"), EMBEDDED)

    assert encoding.embedded["carrier"].vocabulary == ("AA", "UA")
    assert encoding.embedded["route"].vocabulary == ("EWR BOS", "EWR ORD", "JFK BOS")
    assert "aircraft" not in encoding.embedded, "its column is not a feature"
    assert [(name, scale.mean, scale.has_gaps) for name, scale in encoding.numbers.items()] == [
        ("seats", 2, True),
        ("late", 0.75, False),
        ("flat", 7, False),
    ]
    assert encoding.numbers["seats"].deviation == pytest.approx(np.std([1, 2, 3]))
    codes, numbers = encoding.encode(
        rows(
            carrier=["UA", "ZZ", None],
            origin=["EWR", "LGA", "EWR"],
            dest=["ORD", "ORD", None],
            seats=[2, 999, None],
            late=[True, None, False],
            flat=[7.0, float("inf"), float("nan")],
        )
    )
    assert codes.tolist() == [[2, 2], [0, 0], [0, 0]]
    late, missing = 0.25 / np.std([1, 0, 1, 1]), 0
    expected = [[0, late, 0, 0], [5, missing, 0, 0], [missing, -3 * late, 0, 1]]
    assert numbers == pytest.approx(np.array(expected, dtype=np.float32))
    assert (codes.dtype, numbers.dtype) == (np.int64, np.float32)
    assert numbers.shape[1] == encoding.width


def test_a_frame_is_encoded_like_its_table(splits: tuple[LabelledRows, LabelledRows]) -> None:
    _, validation = splits
    (table,) = validation.read_batches()
    encoding = learn_encoding([table], network.FEATURES, EMBEDDED)
    for of_table, of_frame in zip(encoding.encode(table), encoding.encode_frame(validation.frame), strict=True):
        assert (of_table == of_frame).all()
    assert Encoding.model_validate_json(encoding.model_dump_json()) == encoding


def test_an_encoding_is_the_same_from_parts(splits: tuple[LabelledRows, LabelledRows]) -> None:
    train, _ = splits
    encoding = learn_encoding(train.read_batches(), FEW, EMBEDDED)
    whole = pa.concat_tables(train.read_batches())
    assert encoding.embedded == learn_encoding([whole], FEW, EMBEDDED).embedded
    values = whole["temp_f"].drop_null().to_numpy()
    assert encoding.numbers["temp_f"].mean == pytest.approx(values.mean())
    assert encoding.numbers["temp_f"].deviation == pytest.approx(values.std())


def test_each_epoch_has_its_own_order_of_rows(
    splits: tuple[LabelledRows, LabelledRows], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_epochs, "BUFFER_WEEKS", 2)
    train, _ = splits
    encoding = learn_encoding(train.read_batches(), FEW, EMBEDDED)
    weeks = spool(train, encoding, tmp_path)
    assert len(weeks) == 6

    def epoch(seed: int, number: int) -> list[Batch]:
        return [*minibatches(weeks, 100, seed, number)]

    def rows(batches: list[Batch]) -> np.ndarray:
        return np.concatenate([np.column_stack((batch.numbers, batch.label)) for batch in batches])

    first, again, later, other = (rows(epoch(*which)) for which in ((1, 1), (1, 1), (1, 2), (2, 1)))
    assert (first == again).all()
    assert not (first == later).all()
    assert not (first == other).all()
    buffered = 2 * 7 * 39  # the rows of two weeks
    assert {*map(tuple, first[:buffered])} != {*map(tuple, later[:buffered])}, "other weeks share a buffer"
    whole = pa.concat_tables(train.read_batches())
    expected = np.column_stack((encoding.encode(whole)[1], whole["late"].to_numpy()))
    assert Counter(map(tuple, first.tolist())) == Counter(map(tuple, expected.astype("float32").tolist()))
    assert {len(batch.label) for batch in epoch(1, 1)[:5]} == {100}
    forgotten = np.mean(np.concatenate([batch.codes for batch in epoch(1, 1)]) == 0)
    assert 0.03 < forgotten < 0.07


@NETWORKS
def test_only_the_buffers_weeks_are_in_memory(
    model: ModuleType, splits: tuple[LabelledRows, LabelledRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the tables and arrays alive when another week is read: two of six weeks."""
    monkeypatch.setattr(_epochs, "BUFFER_WEEKS", 2)
    alive: dict[str, list[weakref.ref[Any]]] = {"table": [], "read": []}
    largest: Counter[str] = Counter()

    def watch(kind: str, part: Any) -> None:
        alive[kind].append(weakref.ref(part))
        largest[kind] = max(largest[kind], sum(reference() is not None for reference in alive[kind]))

    def batches(
        rows: LabelledRows, of: Callable[[LabelledRows], Iterator[pa.Table]] = LabelledRows.read_batches
    ) -> Iterator[pa.Table]:
        for table in of(rows):
            watch("table", table)
            yield table

    def read(week: Path, of: Callable[[Path], Batch] = _epochs._read) -> Batch:
        watch("read", (batch := of(week)).numbers)
        return batch

    monkeypatch.setattr(LabelledRows, "read_batches", batches)
    monkeypatch.setattr(_epochs, "_read", read)
    fitted(model, splits)
    assert largest == {"read": 2, "table": 2}, "a table is alive while the next one is read"


@NETWORKS
def test_the_best_epochs_weights_win(model: ModuleType, splits: tuple[LabelledRows, LabelledRows]) -> None:
    _, validation = splits
    scores: list[float] = []
    result = fitted(
        model, splits, lambda _, values: scores.append(values["validation_brier"]), learning_rate=0.2, epochs=30
    )
    brier = evaluate(validation.label, model.predict(result, validation.frame))["brier"]
    assert brier == pytest.approx(min(scores), abs=1e-6)
    assert scores[-1] > min(scores) + 1e-4, "the last epoch is clearly worse"
    assert len(scores) == np.argmin(scores) + 1 + _epochs.PATIENCE < 30


@NETWORKS
def test_unknown_values_count_as_missing(
    model: ModuleType, splits: tuple[LabelledRows, LabelledRows], stored: dict[ModuleType, Path]
) -> None:
    loaded = model.load(stored[model])
    row = splits[1].frame.head(1)
    for name in ("carrier", "origin", "dest", "tailnum"):
        own, unknown, missing = (
            model.predict(loaded, row.assign(**{name: [value]})) for value in (row[name].iloc[0], "??", None)
        )
        assert unknown == missing != own


@NETWORKS
@pytest.mark.parametrize(
    ("forge", "text"),
    [
        (lambda content: content.update(code="import os"), "code\n.*Extra inputs are not permitted"),
        (lambda content: content.pop("width"), "width\n.*Field required"),
        (lambda content: content.update(width=10**9), "width\n.*less than or equal to 4096"),
        (lambda content: content.update(width="16"), "width\n.*valid integer"),
        (lambda content: content.update(width=8), "."),
        (
            lambda content: content["encoding"].update(features=["carrier"]),
            "it encodes .* but the features are carrier",
        ),
        (lambda content: content["encoding"]["numbers"]["temp_f"].update(deviation=0.0), "deviation\n.*greater than 0"),
        (lambda content: content["encoding"]["numbers"]["temp_f"].update(mean=float("nan")), "mean\n.*finite number"),
        (
            lambda content: content["encoding"]["embedded"]["carrier"].update(vocabulary=["AA", "AA"]),
            "names a value twice",
        ),
        (lambda content: content["encoding"]["embedded"]["carrier"].update(vocabulary=["AA"]), "."),
        (lambda content: content["encoding"]["embedded"]["carrier"].pop("columns"), "columns\n.*Field required"),
    ],
)
def test_a_forged_description_is_refused(
    model: ModuleType, stored: dict[ModuleType, Path], tmp_path: Path, forge: Callable[[Any], Any], text: str
) -> None:
    shutil.copytree(stored[model], tmp_path, dirs_exist_ok=True)
    file = tmp_path / DESCRIPTION
    forge(content := json.loads(file.read_text()))
    file.write_text(json.dumps(content))
    with pytest.raises((ValueError, RuntimeError), match=text):
        model.load(tmp_path)


def test_pickled_weights_are_refused(stored: dict[ModuleType, Path], tmp_path: Path) -> None:
    shutil.copytree(stored[keras_network], tmp_path, dirs_exist_ok=True)
    weights = keras_network.load(tmp_path).weights()
    np.savez(tmp_path / keras_network.WEIGHTS, *(part.astype(object) for part in weights))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        keras_network.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "package", "extra"), [(network, "torch", "torch"), (keras_network, "tensorflow", "keras")]
)
def test_a_missing_package_names_its_extra(
    model: ModuleType,
    package: str,
    extra: str,
    splits: tuple[LabelledRows, LabelledRows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}: pip install 'lakehouse-medallion\[{extra}\]'"):
        fitted(model, splits)
    with pytest.raises(ModelError, match=rf"pip install 'lakehouse-medallion\[{extra}\]'"):
        model.load(tmp_path)


def test_importing_networks_loads_no_library() -> None:
    code = (
        "import sys, models.network, models.keras_network; "
        "print({'torch', 'tensorflow', 'keras', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_torch_settings_are_restored(splits: tuple[LabelledRows, LabelledRows]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fitted(network, splits, epochs=1)
    assert (torch.get_rng_state() == before).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loss_of_nan_is_reported(splits: tuple[LabelledRows, LabelledRows]) -> None:
    with pytest.raises(ModelError, match="loss is not a number.* lower learning_rate"):
        fitted(network, splits, learning_rate=float("inf"))


def test_a_gpu_is_set_to_reproducible_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # monkeypatch then removes it again
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert network._device() == torch.device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_half_precision_learns_as_well(
    splits: tuple[LabelledRows, LabelledRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU replaces the GPU here, as it has bfloat16, too."""
    validation, whole = splits[1], fitted(network, splits)
    calls: list[bool] = []

    def on_the_cpu() -> torch.autocast:
        calls.append(True)
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr(network, "_mixed_precision", on_the_cpu)
    half = fitted(network, splits)

    (frame, label), *_ = validation.read_frames()
    scores = [evaluate(label, network.predict(model, frame))["brier"] for model in (whole, half)]
    assert calls
    assert scores[0] != scores[1], "the precision has an effect"
    assert scores[0] == pytest.approx(scores[1], abs=0.005)
    assert {value.dtype for value in half.layers.state_dict().values()} == {torch.float32}
