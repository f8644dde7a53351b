"""Each kind builds the real thing, with what was written."""

import gzip
import struct

import numpy as np
import pytest
from pydantic import TypeAdapter

from mpitrain import optim
from mpitrain.config.data import DataSection
from mpitrain.config.model import ModelSection
from mpitrain.config.optimizer import OptimizerSection, ScheduleSection

GPT = {"kind": "gpt", "width": 8, "depth": 2, "heads": 2, "vocab": 32, "context": 16, "tied": False}
LLAMA = {
    "kind": "llama",
    "width": 8,
    "depth": 2,
    "heads": 4,
    "kv_heads": 2,
    "vocab": 32,
    "context": 16,
    "mlp": 24,
    "theta": 500.0,
}


def section(kind, values):
    return TypeAdapter(kind).validate_python(values, strict=False)


@pytest.mark.parametrize("values", [GPT, LLAMA], ids=lambda values: values["kind"])
def test_a_model_is_built_with_these_settings(values):
    model = section(ModelSection, values).build()
    assert type(model).__name__.lower() == values["kind"]
    assert {key: model.settings[key] for key in values if key != "kind"} == {k: v for k, v in values.items() if k != "kind"}


def test_small_models_have_the_sizes_that_were_written():
    mlp = section(ModelSection, {"kind": "mlp", "sizes": [64, 32, 10]}).build()
    assert sum(p.size for p in mlp.parameters()) == 64 * 32 + 32 + 32 * 10 + 10
    resnet = section(ModelSection, {"kind": "resnet", "depth": [1, 2], "width": 4, "channels": 1, "classes": 10}).build()
    assert resnet.settings == {"depth": (1, 2), "width": 4, "channels": 1, "classes": 10}


SCHEDULES = {
    "constant": ({"warmup": 3}, optim.Constant(warmup=3)),
    "linear": ({"warmup": 3, "final": 0.1}, optim.Linear(steps=50, warmup=3, final=0.1)),
    "cosine": ({"warmup": 3, "final": 0.1}, optim.Cosine(steps=50, warmup=3, final=0.1)),
    "wsd": ({"warmup": 3, "decay": 5}, optim.WSD(steps=50, warmup=3, decay=5)),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_spans_the_run(kind):
    values, expected = SCHEDULES[kind]
    assert section(ScheduleSection, {"kind": kind, **values}).build(50) == expected


OPTIMIZERS = {
    "sgd": ({"momentum": 0.9, "nesterov": True}, optim.SGD),
    "adam": ({"betas": (0.8, 0.9), "eps": 1e-6}, optim.Adam),
    "adamw": ({"weight_decay": 0.1}, optim.AdamW),
    "lamb": ({"weight_decay": 0.1}, optim.LAMB),
    "lars": ({"weight_decay": 0.1, "trust": 0.02, "momentum": 0.8}, optim.LARS),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_has_its_settings_schedule_and_groups(kind):
    values, expected = OPTIMIZERS[kind]
    groups = [{"match": "norm", "weight_decay": 0.0}]
    schedule = optim.Cosine(steps=9)
    built = section(OptimizerSection, {"kind": kind, "lr": 0.5, "groups": groups, **values}).build(schedule)
    assert built == expected(lr=0.5, schedule=schedule, groups=(optim.Group(match="norm", weight_decay=0.0),), **values)
    # what was not written is what the optimizer itself has by default
    assert section(OptimizerSection, {"kind": kind, "lr": 0.5}).build(optim.Constant()) == expected(lr=0.5)


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Files of every format, small; the training ones have three samples and the validation ones two."""
    for name, count in (("train", 3), ("validation", 2)):
        images, labels = np.full((count, 4, 4), count, np.uint8), np.arange(count, dtype=np.uint8)
        (tmp_path / f"{name}.txt").write_bytes(bytes(range(4 * count + 1)))
        np.arange(4 * count + 1, dtype="<u2").tofile(tmp_path / f"{name}.bin")
        np.save(tmp_path / f"{name}_tokens.npy", np.arange(4 * count + 1))
        np.save(tmp_path / f"{name}_inputs.npy", images)
        np.save(tmp_path / f"{name}_targets.npy", labels.astype(np.int64))
        (tmp_path / f"{name}_images.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{name}_labels").write_bytes(idx(labels))
    records = np.zeros((2, 3073), np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records[: 1 if name == "test_batch" else 2].tofile(tmp_path / f"{name}.bin")
    return tmp_path


#: Settings, lengths of the two datasets, and the shape of a sample's input.
DATA = {
    "stdlib": ({"context": 100, "megabytes": 0.5}, None, (100,)),
    "text": ({"files": ("train.txt",), "validation": ("validation.txt",), "context": 4}, (3, 2), (4,)),
    "nanogpt": (
        {"kind": "tokens", "format": "nanogpt", "train": "train.bin", "validation": "validation.bin", "context": 4},
        (3, 2),
        (4,),
    ),
    "npy tokens": (
        {"kind": "tokens", "format": "npy", "train": "train_tokens.npy", "validation": "validation_tokens.npy", "context": 4},
        (3, 2),
        (4,),
    ),
    "digits": ({}, (1437, 360), (1, 8, 8)),
    "flat digits": ({"kind": "digits", "images": "flat"}, (1437, 360), (64,)),
    "idx": (
        {
            "images": "train_images.gz",
            "labels": "train_labels",
            "validation_images": "validation_images.gz",
            "validation_labels": "validation_labels",
        },
        (3, 2),
        (1, 4, 4),
    ),
    "cifar10": ({"folder": "."}, (10, 1), (3, 32, 32)),
    "npy": (
        {
            "inputs": "train_inputs.npy",
            "targets": "train_targets.npy",
            "validation_inputs": "validation_inputs.npy",
            "validation_targets": "validation_targets.npy",
            "scale": 0.5,
        },
        (3, 2),
        (4, 4),
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_is_read_for_training_and_for_validation(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    values, lengths, shape = DATA[case]
    datasets = section(DataSection, {"kind": case, **values}).build()
    if lengths is not None:
        assert tuple(map(len, datasets)) == lengths
    for dataset in datasets:
        inputs, targets = dataset.batch(np.array([len(dataset) - 1]))
        assert inputs.shape == (1, *shape)
        assert targets.shape == ((1, *shape) if "context" in values else (1,))
