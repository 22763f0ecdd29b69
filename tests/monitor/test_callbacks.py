"""The callbacks inside the real trainers: Lightning's and Hugging Face's, a few steps on the CPU."""

import copy
import json
import logging
import os
import pickle
import sys

import pytest
import torch
from torch import nn

import onsphere
from onsphere.monitor.callbacks import HuggingFaceMonitor, LightningMonitor

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"}

VALUES = {"norm", "gradient_norm", "elr", "effective_step", "angular_update", "noether_residual", "lr", "weight_decay"}


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    )


X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 3


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def attached(optimizer):
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


class FailingError(RuntimeError):
    pass


@pytest.fixture
def jumping(monkeypatch):
    """Every diagnosis finds this jump; when there is one is not the callbacks' affair."""
    from onsphere.monitor import findings

    jump = findings.Finding("jump", "warning", "sphere: a jump", {"group": "sphere", "steps": [7]})
    monkeypatch.setattr(findings, "diagnose", lambda groups: [jump])
    return jump


# -- Lightning -------------------------------------------------------------------------------------------------------

# lightning warns of few workers, few batches and its own use of torch; onsphere of nothing.
lightning_warnings = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def lightning(request):
    return pytest.importorskip(request.param)


def module_of(lightning, **settings):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.fail_at = settings.get("fail_at")

        def training_step(self, batch, index):
            if index == self.fail_at:
                raise FailingError
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            kind = settings.get("optimizer", torch.optim.SGD)
            optimizer = kind(self.net.parameters(), lr=settings.get("lr", 0.1), weight_decay=settings.get("wd", 1e-2))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)]

    return Module()


def trainer_of(lightning, folder, callbacks=(), loggers=(), **settings):
    settings = {"max_epochs": 3, "enable_checkpointing": False, "gradient_clip_val": 1.0} | settings
    return lightning.Trainer(
        **settings,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def data(repeat=1):
    dataset = torch.utils.data.TensorDataset(X.repeat(repeat, 1), Y.repeat(repeat))
    return torch.utils.data.DataLoader(dataset, batch_size=16)


def groups_of(module):
    return onsphere.sphere_groups(module.net, X[:16])


class TestLightning:
    pytestmark = lightning_warnings

    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
    def test_training_is_bit_identical(self, lightning, optimizer, tmp_path):
        trained = []
        for callbacks in ([], [LightningMonitor(every=1, groups=groups_of)]):
            module = module_of(lightning, optimizer=optimizer)
            trainer_of(lightning, tmp_path, callbacks, accumulate_grad_batches=2).fit(module, data())
            trained.append(module.state_dict())
        assert same(*trained)
        read = callbacks[0].monitor.readings(select="sphere")
        assert read["step"].tolist() == list(range(6))
        assert all((read[name] > 0).all() for name in ("norm", "gradient_norm", "elr", "angular_update"))

    def test_it_is_a_callback_and_detaches_at_the_end(self, lightning, tmp_path):
        callback = LightningMonitor(every=2)
        trainer = trainer_of(lightning, tmp_path, [callback])
        trainer.fit(module_of(lightning), data())
        assert isinstance(callback, LightningMonitor)
        theirs = [
            sys.modules[name].Callback for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules
        ]
        assert isinstance(callback, tuple(theirs))
        assert callback.state_key == "LightningMonitor"
        assert not attached(trainer.optimizers[0])
        assert callback.monitor.readings()["step"].tolist() == [0, 2, 4, 6, 8, 10]
        assert callback.monitor.readings()["lr"][1] == pytest.approx(0.1)

        trainer_of(lightning, tmp_path, [callback]).fit(module_of(lightning), data())  # again, with a new monitor
        assert callback.monitor.readings()["step"].tolist() == [0, 2, 4, 6, 8, 10]

    def test_readings_and_findings_go_to_the_loggers(self, lightning, tmp_path, caplog):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = lightning.pytorch.loggers if hasattr(lightning, "pytorch") else lightning.loggers
        loggers = [board.TensorBoardLogger(tmp_path, name="board"), board.CSVLogger(tmp_path, name="csv")]
        callback = LightningMonitor(every=3, groups=groups_of)
        with caplog.at_level(logging.INFO, "onsphere.monitor"):
            trainer_of(lightning, tmp_path, [callback], loggers).fit(module_of(lightning, lr=0.0), data())
        (finding,) = [f for f in callback.monitor.diagnose() if f.kind == "lr" and f.evidence["group"] == "sphere"]
        assert finding.message in caplog.text

        events = EventAccumulator(loggers[0].log_dir)
        events.Reload()
        read = callback.monitor.readings(select="sphere")
        for name in VALUES:
            written = events.Scalars(f"onsphere/sphere/{name}")
            assert [event.step for event in written] == [0, 3, 6, 9]
            assert [event.value for event in written] == pytest.approx(read[name].tolist(), rel=1e-6, nan_ok=True)
        (text,) = events.Tensors("onsphere/findings/text_summary")
        assert finding.message in text.tensor_proto.string_val[0].decode()
        assert text.step == 12
        assert events.Scalars("onsphere/findings/warning")[0].value >= 1
        table = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
        assert "onsphere/sphere/elr" in table.splitlines()[0]

    def test_a_checkpoint_carries_the_readings(self, lightning, tmp_path):
        first = trainer_of(lightning, tmp_path, [LightningMonitor(every=1)], max_epochs=2)
        first.fit(module_of(lightning), data())
        first.save_checkpoint(tmp_path / "last.ckpt")
        whole = trainer_of(lightning, tmp_path, [LightningMonitor(every=1)], max_epochs=4)
        whole.fit(module_of(lightning), data())
        rest = trainer_of(lightning, tmp_path, [LightningMonitor(every=1)], max_epochs=4)
        rest.fit(module_of(lightning), data(), ckpt_path=tmp_path / "last.ckpt")
        read, wanted = (t.callbacks[0].monitor.readings() for t in (rest, whole))
        assert read["step"].tolist() == list(range(16))
        for name in VALUES:
            assert read[name].tolist() == wanted[name].tolist()

    def test_a_checkpoint_that_does_not_fit_is_said_and_left(self, lightning, tmp_path, caplog):
        first = trainer_of(lightning, tmp_path, [LightningMonitor(every=1)], max_epochs=2)
        first.fit(module_of(lightning), data())
        first.save_checkpoint(tmp_path / "last.ckpt")
        callback = LightningMonitor(every=2)
        rest = trainer_of(lightning, tmp_path, [callback])
        rest.fit(module_of(lightning), data(), ckpt_path=tmp_path / "last.ckpt")
        assert "start anew" in caplog.text
        assert callback.monitor.readings()["step"].tolist() == [0, 2]

    def test_a_failing_run_is_left_detached(self, lightning, tmp_path):
        callback = LightningMonitor(every=1)
        trainer = trainer_of(lightning, tmp_path, [callback])
        with pytest.raises(FailingError):
            trainer.fit(module_of(lightning, fail_at=2), data())
        assert not attached(trainer.optimizers[0])
        assert callback.monitor.readings()["step"].tolist() == [0, 1]

    def test_copies_and_pickles(self, lightning):
        callback = LightningMonitor(every=7)
        for made in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            assert type(made) is type(callback)
            assert made._every == 7

    def test_alarms_are_logged_when_raised(self, lightning, tmp_path, jumping):
        heard = []
        callback = LightningMonitor(every=1, groups=groups_of, on_alarm=heard.append)
        board = lightning.pytorch.loggers if hasattr(lightning, "pytorch") else lightning.loggers
        trainer = trainer_of(lightning, tmp_path, [callback], [board.CSVLogger(tmp_path)])
        trainer.fit(module_of(lightning), data(repeat=4))
        assert heard == [jumping]
        table = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
        column, step = (table[0].split(",").index(name) for name in ("onsphere/findings/warning", "step"))
        said = [int(line.split(",")[step]) for line in table[1:] if line.split(",")[column] == "1.0"]
        assert said == [31, 48]  # when the first 32 readings are in, and at the end


def test_lightning_is_asked_for_when_it_is_missing(monkeypatch):
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"LightningMonitor needs lightning .*: pip install lightning"):
        LightningMonitor()


# -- Hugging Face ------------------------------------------------------------------------------------------------------

TOKENS = torch.randint(0, 32, (32, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return transformers


def language_model(transformers):
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    torch.manual_seed(2)
    return transformers.LlamaForCausalLM(config)


def hf_trainer(transformers, folder, *, model=None, **settings):
    settings = {"max_steps": 8, "logging_steps": 2, "report_to": "none", "save_strategy": "no"} | settings
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        weight_decay=0.1,
        use_cpu=True,
        seed=3,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **settings,
    )
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    return transformers.Trainer(model or language_model(transformers), arguments, train_dataset=rows)


def attention(model):
    names = [name for name, _ in model.named_parameters() if "_proj" in name]
    parameters = dict(model.named_parameters())
    return [{"params": [parameters[name] for name in names], "names": names}]


class TestHuggingFace:
    def test_training_is_bit_identical(self, transformers, tmp_path):
        trained, losses = [], []
        for watched in (False, True):
            trainer = hf_trainer(transformers, tmp_path / str(watched), gradient_accumulation_steps=2)
            if watched:
                trainer.add_callback(HuggingFaceMonitor(every=1, groups=attention, trainer=trainer))
            trainer.train()
            trained.append(trainer.model.state_dict())
            losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert same(*trained)
        assert losses[0] == losses[1]
        assert len(losses[0]) == 4

    def test_it_is_a_callback_and_detaches_at_the_end(self, transformers, tmp_path):
        trainer = hf_trainer(transformers, tmp_path)
        callback = HuggingFaceMonitor(every=3, trainer=trainer, select="*_proj*")
        trainer.add_callback(callback)
        trainer.train()
        assert isinstance(callback, HuggingFaceMonitor)
        assert isinstance(callback, transformers.TrainerCallback)
        assert not attached(trainer.optimizer.optimizer)
        read = callback.monitor.readings(level="tensor")
        assert sorted(set(read["step"])) == [0, 3, 6]
        assert "model.layers.0.self_attn.q_proj.weight" in read["group"]
        assert all((read[name] > 0).all() for name in ("norm", "gradient_norm", "elr", "angular_update"))

    def test_readings_and_findings_go_through_the_trainer(self, transformers, tmp_path, monkeypatch, caplog):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
        trainer = hf_trainer(transformers, tmp_path, report_to=["tensorboard"])
        trainer.args.learning_rate = 0.0
        callback = HuggingFaceMonitor(every=1, groups=attention, trainer=trainer)
        trainer.add_callback(callback)
        with caplog.at_level(logging.INFO, "onsphere.monitor"):
            trainer.train()
        (finding,) = [finding for finding in callback.monitor.diagnose() if finding.kind == "lr"]
        assert finding.message in caplog.text

        read = callback.monitor.readings()
        logged = [entry for entry in trainer.state.log_history if "onsphere/rest/norm" in entry]
        assert [entry["onsphere/step"] for entry in logged] == [1, 3, 5, 7]
        assert [entry["onsphere/rest/norm"] for entry in logged] == read["norm"][1::2].tolist()
        said = [entry["onsphere/findings"] for entry in trainer.state.log_history if "onsphere/findings" in entry]
        assert finding.message in said[-1]

        events = EventAccumulator(str(tmp_path / "board"))
        events.Reload()
        for name in VALUES:
            written = events.Scalars(f"train/onsphere/rest/{name}")
            assert [event.step for event in written] == [2, 4, 6, 8]
            assert [event.value for event in written] == pytest.approx(read[name][1::2].tolist(), rel=1e-6)
        (text,) = events.Tensors("train/onsphere/findings/text_summary")
        assert finding.message in text.tensor_proto.string_val[0].decode()

    def test_alarms_are_logged_when_raised(self, transformers, tmp_path, jumping):
        heard = []
        trainer = hf_trainer(transformers, tmp_path, max_steps=40, logging_steps=40)
        trainer.add_callback(HuggingFaceMonitor(every=1, trainer=trainer, on_alarm=heard.append))
        trainer.train()
        assert heard == [jumping]
        history = trainer.state.log_history
        said = [entry["step"] for entry in history if "a jump" in entry.get("onsphere/findings", "")]
        assert said == [31, 40]
        assert sum("loss" in entry for entry in history) == 1

    def test_without_the_trainer_the_history_has_it(self, transformers, tmp_path):
        trainer = hf_trainer(transformers, tmp_path)
        callback = HuggingFaceMonitor(every=2)
        trainer.add_callback(callback)
        trainer.train()
        steps = [entry["onsphere/step"] for entry in trainer.state.log_history if "onsphere/step" in entry]
        assert steps == [0, 2, 4, 6]
        assert sum("loss" in entry for entry in trainer.state.log_history) == 4

    def test_a_checkpoint_carries_the_readings(self, transformers, tmp_path):
        def watched(folder, **settings):
            trainer = hf_trainer(transformers, folder, lr_scheduler_type="constant", **settings)
            trainer.add_callback(HuggingFaceMonitor(every=1, trainer=trainer))
            return trainer, trainer.callback_handler.callbacks[-1]

        first, _ = watched(tmp_path / "run", max_steps=4, save_strategy="steps", save_steps=4)
        first.train()
        rest, callback = watched(tmp_path / "run")
        rest.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
        whole, uninterrupted = watched(tmp_path / "whole")
        whole.train()
        read, wanted = callback.monitor.readings(), uninterrupted.monitor.readings()
        assert read["step"].tolist() == list(range(8))
        for name in VALUES:
            assert read[name].tolist() == wanted[name].tolist()
        json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())


def test_transformers_is_asked_for_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="HuggingFaceMonitor needs transformers: pip install transformers"):
        HuggingFaceMonitor()
