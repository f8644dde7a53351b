"""What a resumed run says of what has changed, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.origin import origin

GPT = {"width": 16, "depth": 1, "heads": 2, "vocab": 31, "context": 8}
LLAMA = GPT | {"kv_heads": 1, "mlp": 20}


def gpt(**settings):
    return mt.nn.models.GPT(**GPT | settings)


def llama(**settings):
    return mt.nn.models.Llama(**LLAMA | settings)


def tokens(samples=40, start=0):
    return mt.data.TokenDataset((np.arange(start, start + 8 * samples + 1) ** 2 % 31).astype(np.uint8), 8)


def trainer(model=None, *, dp=1, data=None, optimizer=None, **settings):
    mesh = mt.Mesh(mt.comm.local(dp), mt.Layout(dp=dp))
    optimizer = optimizer or mt.optim.AdamW(lr=1e-2, schedule=mt.optim.Cosine(steps=20, warmup=2))
    settings = {"batch": 6, "dtype": "float64", "arrays": "numpy"} | settings
    return mt.Trainer(model or gpt(), optimizer, data or tokens(), mesh=mesh, **settings)


def quiet(report):
    pass


def lines(capsys):
    return [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]


def test_what_is_the_same_is_not_told(tmp_path, capsys):
    def halving(step):
        return 0.5**step

    def job():
        optimizer = mt.optim.SGD(lr=0.1, schedule=halving, groups=(mt.optim.Group(match="norm", lr_scale=0.5),))
        return trainer(llama(rope={"rope_type": "linear", "factor": 2.0}), optimizer=optimizer, schedule="interleaved:1")

    job().save(tmp_path)
    job().resume(tmp_path)
    assert lines(capsys) == []


def test_each_change_of_a_setting_is_told_in_one_line(tmp_path, capsys):
    trainer(gpt(dropout=0.1)).save(tmp_path)
    optimizer = mt.optim.AdamW(lr=2e-2, weight_decay=0.1, schedule=mt.optim.Cosine(steps=30, warmup=2))
    settings = {"batch": 8, "seed": 3, "dtype": "float32", "clip": 1.0, "schedule": "interleaved:3"}
    job = trainer(gpt(recompute=True), dp=2, data=tokens(start=5), optimizer=optimizer, **settings)
    assert job.resume(tmp_path) == tmp_path / "step-00000000"
    digests, *others = lines(capsys)
    assert digests.startswith("data.digest_of_some was ")
    assert others == [
        "layout.dp was 1, is 2",
        "model.dropout was 0.1, is 0.0",
        "model.recompute was False, is True",
        "optimizer.lr was 0.01, is 0.02",
        "optimizer.schedule.steps was 20, is 30",
        "optimizer.weight_decay was 0.01, is 0.1",
        "settings.batch was 6, is 8",
        "settings.clip was not set, is 1.0",
        "settings.dtype was float64, is float32",
        "settings.schedule was one_f_one_b, is not set",
        "settings.schedule.chunks was not set, is 3",
        "settings.schedule.kind was not set, is interleaved",
        "settings.seed was 0, is 3",
    ]


FUNCTIONS = {
    "heads": (gpt, {"heads": 4}, "heads = 2 and has heads = 4"),
    "eps": (gpt, {"eps": 1e-3}, "eps = 1e-05 and has eps = 0.001"),
    "context": (llama, {"context": 16}, "context = 8 and has context = 16"),
    "theta": (llama, {"theta": 500.0}, r"theta = 10000\.0 and has theta = 500\.0"),
    "rope": (llama, {"rope": {"rope_type": "linear", "factor": 2.0}}, r"rope = None and has rope = \{'rope_type'"),
}


@pytest.mark.parametrize(("make", "change", "says"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_model_of_the_same_shapes_and_another_function_is_refused(tmp_path, make, change, says):
    trainer(make()).save(tmp_path)
    with pytest.raises(ValueError, match=rf"the model had {says}.*, which is another function of the same weights; build it"):
        trainer(make(**change), dp=2).resume(tmp_path)


def test_another_number_of_samples_is_refused_unless_they_are_read_from_their_start(tmp_path):
    first = trainer()
    first.fit(5, report=quiet, folder=tmp_path)  # 30 of 40 samples
    second = trainer(data=tokens(35))
    with pytest.raises(ValueError, match=r"the dataset had 40 samples and has 35, .*restart_data=True\) or --restart-data"):
        second.resume(tmp_path)
    assert second.step == 0
    second = trainer(data=tokens(35))
    second.resume(tmp_path, restart_data=True)
    assert second.step == 5
    [worker] = second.workers.values()
    assert worker.position == worker.sampler.start()
    second.fit(1, report=quiet)


def test_settings_of_a_users_model_may_be_numbers_of_numpy(tmp_path):
    def model(scale):
        layers = [mt.nn.Embedding(31, 4), mt.nn.Linear(4, 31)]
        return mt.nn.Model(layers, mt.nn.CrossEntropy(), scale=np.float32(scale), offsets=np.arange(2))

    trainer(model(2.0)).save(tmp_path)
    trainer(model(2.0)).resume(tmp_path)
    with pytest.raises(ValueError, match=r"the model had scale = 2\.0 and has scale = 3\.0"):
        trainer(model(3.0)).resume(tmp_path)


def test_a_checkpoint_that_says_less_is_taken_at_its_word(tmp_path, capsys, monkeypatch):
    """As versions before this one wrote them."""
    monkeypatch.setattr("mpitrain.snapshot.origin", lambda worker: {"model": origin(worker)["model"]})
    trainer().save(tmp_path)
    monkeypatch.undo()
    trainer(data=tokens(35), batch=5).resume(tmp_path)
    assert lines(capsys) == []
