"""Every sink against the real package and a local store; what was written is read back."""

import gc
import json
import math
import os
import struct
import subprocess
import sys
import time

import pytest
import torch

import onsphere
from onsphere.monitor.sinks import MLflowSink, Sink, TensorBoardSink, TrackioSink, WandbSink

# Nobody's package reports home from a test (MLflow waits seconds for an answer).
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "HF_HUB_OFFLINE": "1"}

NAN, INF = float("nan"), float("inf")
WRITTEN = {3: {"sphere/elr": 0.25, "rest/norm": 2.0}, 7: {"sphere/elr": NAN, "rest/norm": INF}, 11: {"rest/norm": 1.5}}


def fill(sink):
    for step, values in WRITTEN.items():
        sink.write(step, values)


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def expected(name, infinity=INF):
    return [
        (step, infinity if math.isinf(values[name]) else values[name])
        for step, values in WRITTEN.items()
        if name in values
    ]


def assert_read(read, prefix="onsphere/", infinity=INF):
    for name in ("sphere/elr", "rest/norm"):
        pairs = zip(read[prefix + name], expected(name, infinity), strict=True)
        for (step, value), (wanted_step, wanted) in pairs:
            assert step == wanted_step
            assert same(value, wanted), (name, step)


def train(sinks, steps=9):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.1)
    monitor = onsphere.Monitor(optimizer, [{"params": [weight], "sphere": "joint"}], every=2, sinks=sinks)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight / weight.norm()).sum().backward()
        optimizer.step()
    monitor.detach()
    return monitor.readings()


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_in_a_folder(tmp_path):
    with TensorBoardSink(tmp_path / "board") as sink:
        assert isinstance(sink, Sink)
        fill(sink)
    assert_read(read_tensorboard(tmp_path / "board"))


def test_tensorboard_with_a_writer_of_ones_own(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path / "board")
    sink = TensorBoardSink(writer, prefix="elr/")
    fill(sink)
    sink.close()
    assert_read(read_tensorboard(tmp_path / "board"), "elr/")
    writer.add_scalar("loss", 1.0, 12)  # still open
    writer.close()
    assert read_tensorboard(tmp_path / "board")["loss"] == [(12, 1.0)]


def test_readings_of_a_monitor_arrive(tmp_path):
    with TensorBoardSink(tmp_path / "board") as sink:
        readings = train([sink])
    read = read_tensorboard(tmp_path / "board")
    assert [step for step, _ in read["onsphere/sphere/elr"]] == readings["step"].tolist() == [0, 2, 4, 6, 8]
    for name in ("norm", "elr", "effective_gradient", "angular_update", "lr"):
        written = torch.tensor([value for _, value in read[f"onsphere/sphere/{name}"]], dtype=torch.float64)
        assert torch.allclose(written, torch.from_numpy(readings[name]), rtol=1e-6, atol=0)


def test_tensorboard_is_told_where():
    with pytest.raises(TypeError, match="folder or a SummaryWriter"):
        TensorBoardSink(3)


# -- MLflow ------------------------------------------------------------------------------------------------------------

# SQLAlchemy 2.1 says so of MLflow's own tables.
mlflow_warnings = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory):
    pytest.importorskip("mlflow")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def read_mlflow(client, run_id):
    names = client.get_run(run_id).data.metrics
    return {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in names}


@mlflow_warnings
def test_mlflow_in_a_database(mlflow_store):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=mlflow_store)
    run_id = client.create_run(client.create_experiment("spheres")).info.run_id
    with MLflowSink(run_id, mlflow_store) as sink:
        assert isinstance(sink, Sink)
        fill(sink)
        sink.write(13, {"a[0]:weight": 1.0})
    read = read_mlflow(client, run_id)
    assert_read(read, infinity=NAN)
    assert read["onsphere/a_0__weight"] == [(13, 1.0)]

    train([MLflowSink(run_id, mlflow_store, prefix="unclosed/")])
    gc.collect()  # what waits is sent when the sink goes
    assert [step for step, _ in read_mlflow(client, run_id)["unclosed/sphere/elr"]] == [0, 2, 4, 6, 8]


class Recording:
    """Takes the place of MlflowClient, whose requests are counted."""

    def __init__(self):
        self.sizes = []

    def log_batch(self, run_id, metrics, synchronous):
        self.sizes.append(len(metrics))


def test_mlflow_sends_a_thousand_numbers_at_a_time():
    pytest.importorskip("mlflow")
    sink = MLflowSink("a run", "http://localhost")  # never asked
    sink._client = client = Recording()
    sink._sent = float("inf")  # never because of the time
    for step in range(300):
        sink.write(step, {f"tensor {i}": 0.0 for i in range(7)})
        sink._sent = float("inf")  # never because of the time
    sink.close()
    assert sum(client.sizes) == 2100
    assert client.sizes == [1000, 1, 1000, 1, 98]


@mlflow_warnings
def test_mlflow_takes_the_active_run(mlflow_store):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(mlflow_store)
    try:
        with pytest.raises(ValueError, match=r"mlflow\.start_run"):
            MLflowSink()
        mlflow.set_experiment("active")
        with mlflow.start_run() as run, MLflowSink(prefix="") as sink:
            fill(sink)
        read = read_mlflow(mlflow.MlflowClient(), run.info.run_id)
    finally:
        mlflow.set_tracking_uri(before)
    assert_read(read, prefix="", infinity=NAN)


# -- Weights & Biases --------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_run(tmp_path):
    wandb = pytest.importorskip("wandb")
    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    run = wandb.init(mode="offline", project="spheres", dir=str(tmp_path), settings=settings)
    yield run
    run.finish()


def wandb_records(path):
    """What is in the file that ``wandb sync`` would send: records as in a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, body = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is too short for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        body += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(data):  # whole, or the last part
            yield Record.FromString(body)
            body = b""


def read_wandb(folder):
    """Rows of the history. W&B's own process may still be writing when finish() is back."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    records = []
    while not any(record.WhichOneof("record_type") == "exit" for record in records):
        time.sleep(0.05)
        records = list(wandb_records(path))
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{(x.key or "/".join(x.nested_key)): json.loads(x.value_json) for x in row} for row in rows]


def wandb_columns(rows):
    names = {name for row in rows for name in row if not name.startswith("_") and name != "onsphere/step"}
    return {name: [(row["onsphere/step"], float(row[name])) for row in rows if name in row] for name in names}


def test_wandb_offline(wandb_run, tmp_path):
    with WandbSink() as sink:
        assert isinstance(sink, Sink)
        assert sink.run is wandb_run
        fill(sink)
    wandb_run.finish()
    assert_read(wandb_columns(read_wandb(tmp_path)))


def test_wandb_leaves_the_steps_of_the_loop_alone(wandb_run, tmp_path):
    sink = WandbSink(wandb_run, commit=False)
    for step in (100, 101):
        fill(sink)
        wandb_run.log({"loss": step / 100}, step=step)
    wandb_run.finish()
    rows = read_wandb(tmp_path)
    assert [(row["_step"], row["loss"]) for row in rows if "loss" in row] == [(100, 1.0), (101, 1.01)]
    assert [row["onsphere/rest/norm"] for row in rows if "onsphere/rest/norm" in row][-1] == 1.5


def test_wandb_wants_a_run():
    pytest.importorskip("wandb")
    with pytest.raises(ValueError, match=r"wandb\.init"):
        WandbSink()


# -- trackio -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trackio_store(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    from trackio import context_vars, sqlite_storage, utils

    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield trackio
    context_vars.current_run.set(None)


def read_trackio(project, run):
    from trackio.sqlite_storage import SQLiteStorage

    read = {}
    for row in SQLiteStorage.get_logs(project, run):
        for name in row.keys() - {"step", "timestamp"}:
            read.setdefault(name, []).append((row["step"], float(row[name])))
    return read


def test_trackio_starts_a_run_of_its_own(trackio_store):
    yours = trackio_store.init(project="mine", name="loop")
    with TrackioSink("spheres", name="one") as sink:
        assert isinstance(sink, Sink)
        fill(sink)
        trackio_store.log({"loss": 1.0}, step=5)  # goes where it went before
    sink.close()
    assert_read(read_trackio("spheres", "one"))
    yours.finish()
    assert read_trackio("mine", "loop") == {"loss": [(5, 1.0)]}


def test_trackio_takes_the_active_run(trackio_store):
    with pytest.raises(ValueError, match=r"trackio\.init"):
        TrackioSink()
    trackio_store.init(project="mine", name="loop")
    with TrackioSink() as sink:
        fill(sink)
    trackio_store.log({"loss": 1.0}, step=12)  # still open
    trackio_store.finish()
    read = read_trackio("mine", "loop")
    assert_read(read)
    assert read["loss"] == [(12, 1.0)]
    with pytest.raises(ValueError, match="give one of them"):
        TrackioSink("mine", run=sink.run)
    with pytest.raises(ValueError, match="without a project"):
        TrackioSink(name="two")


# -- without the packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sink", "arguments", "missing"),
    [
        (TensorBoardSink, ("a folder",), "tensorboard"),
        (WandbSink, (), "wandb"),
        (MLflowSink, (), "mlflow"),
        (TrackioSink, ("a project",), "trackio"),
    ],
)
def test_what_to_install_is_said(sink, arguments, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"{sink.__name__} needs {missing}.*: pip install {missing}"):
        sink(*arguments)


def test_nothing_is_imported_before_it_is_used():
    code = "import sys; import onsphere.monitor.sinks, onsphere.monitor.callbacks; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.split(".")[0] for name in output.split()}
    assert not loaded & {"tensorboard", "wandb", "mlflow", "trackio", "lightning", "pytorch_lightning", "transformers"}
