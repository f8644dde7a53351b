"""From TOML to a configuration and back, and what is said of every mistake."""

import tomllib

import pytest

from mpitrain.config import ConfigError, dump, load, read, recipes

TEXT = """\
# A small model on the standard library.
[run]
steps = 10

[layout]
dp = 2

[model]
kind = "gpt"
width = 8
depth = 2
heads = 2
vocab = 256
context = 16

[data]
kind = "stdlib"
context = 16

[train]
batch = 8

[optimizer]
kind = "adamw"
lr = 1e-3
betas = [0.9, 0.95]

[[optimizer.groups]]
match = "norm"

[[optimizer.groups]]
match = "head"
lr_scale = 0.5
trained = false

[schedule]
kind = "cosine"
warmup = 2
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def test_values_and_defaults(file):
    config = load(file)
    assert config.run.name == "small"
    assert config.run.path().as_posix() == "runs/small"
    assert (config.layout.dp, config.layout.pp) == (2, 1)
    assert config.optimizer.betas == (0.9, 0.95)
    assert [group.match for group in config.optimizer.groups] == ["norm", "head"]
    assert [group.trained for group in config.build_optimizer().groups] == [None, False]
    assert config.train.schedule == "1f1b"
    assert config.sample is None
    assert config.check.enabled


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("layout.pp=2", "layout", "pp", 2),
        ("run.name = other", "run", "name", "other"),
        ('run.name="7"', "run", "name", "7"),
        ("optimizer.lr=3", "optimizer", "lr", 3.0),
        ("optimizer.betas=[0.8, 0.9]", "optimizer", "betas", (0.8, 0.9)),
        ("train.clip=inf", "train", "clip", float("inf")),
        ("model.tied=false", "model", "tied", False),
        ("checkpoint.every=5", "checkpoint", "every", 5),
        ("sample.prompt=def", "sample", "prompt", "def"),
    ],
)
def test_an_override_changes_one_value(file, override, section, key, value):
    assert getattr(getattr(load(file, [override]), section), key) == value


def test_the_last_override_of_a_value_counts(file):
    assert load(file, ["train.batch=1", "train.batch=2"]).train.batch == 2


def test_what_was_dumped_is_loaded_as_the_same(file, tmp_path):
    config = load(file, ["train.clip=1.5", "sample.prompt='import '", "run.seed=-3"])
    text = dump(config)
    assert tomllib.loads(text)["validation"] == {}
    assert tomllib.loads(text)["train"].items() >= {"batch": 8, "microbatches": 1, "schedule": "1f1b", "clip": 1.5}.items()
    (tmp_path / "resolved.toml").write_text(text)
    assert load(tmp_path / "resolved.toml") == config


MISTAKES = {
    "unknown key": (
        ("width = 8", "widht = 8"),
        [],
        ["small.toml, line 10: model.widht is not a setting; did you mean 'width'?", "model.width is missing; expected Width"],
    ),
    "unknown section": (
        ("[layout]", "[layouts]"),
        [],
        ["line 5: layouts is not a setting; did you mean 'layout'?", "run, layout, model"],
    ),
    "unknown kind": (
        ('kind = "gpt"', 'kind = "gtp"'),
        [],
        ["line 9: model has kind = 'gtp'; did you mean 'gpt'?", "llama, mlp"],
    ),
    "override's kind": (("", ""), ["model.kind=gtp"], ["--set model.kind=gtp: model has kind = 'gtp'"]),
    "no kind": (('kind = "gpt"\n', ""), [], ["line 8: model has no kind; expected one of gpt, llama"]),
    "missing value": (("steps = 10", ""), [], ["line 2: run.steps is missing; expected Training steps."]),
    "missing section": (("[train]\nbatch = 8", ""), [], ["small.toml: train is missing; expected a section"]),
    "wrong type": (("depth = 2", 'depth = "two"'), [], ["line 11: model.depth is 'two'; expected an integer of at least 1"]),
    "out of range": (("depth = 2", "depth = 0"), [], ["line 11: model.depth is 0; expected an integer of at least 1"]),
    "wrong in a list": (
        ("[0.9, 0.95]", "[0.9, 1.5]"),
        [],
        ["line 26: optimizer.betas.1 is 1.5; expected a number of at least 0 and below 1"],
    ),
    "unknown in a group": (
        ("lr_scale", "lr_factor"),
        [],
        ["line 33: optimizer.groups.1.lr_factor is not a setting", "lr_scale"],
    ),
    "bad expression": (
        ('"norm"', '"(norm"'),
        [],
        ["line 29: optimizer.groups.0.match cannot be used: '(norm' is not a regular expression (missing )"],
    ),
    "unknown schedule": (("", ""), ["train.schedule=1b1f"], ["--set train.schedule=1b1f: ", "expected one of gpipe, 1f1b"]),
    "unknown dtype": (
        ("", ""),
        ["run.dtype=float8"],
        ["run.dtype cannot be used: dtype 'float8' is not", "float16, bfloat16, float32, float64"],
    ),
    "override's key": (
        ("", ""),
        ["train.bacth=1"],
        ["--set train.bacth=1: train.bacth is not a setting; did you mean 'batch'?"],
    ),
    "override's value": (
        ("", ""),
        ["train.batch=1.5"],
        ["--set train.batch=1.5: train.batch is 1.5; expected an integer of at least 1"],
    ),
    "one of two types": (
        ("dp = 2", 'dp = "two"'),
        [],
        ["small.toml, line 6: layout.dp is 'two'; expected an integer of at least 1, or a list, each "],
    ),
    "item of one of two types": (("", ""), ["layout.dp=[2, 0]"], ["layout.dp.1 is 0; expected an integer of at least 1"]),
    "empty": (("", ""), ["sample.prompt="], ["--set sample.prompt=: sample.prompt is ''; expected at least 1 character"]),
    "half a section": (("", ""), ["sample.tokens=5"], ["--set sample.tokens=5: sample.prompt is missing; expected How it"]),
    "override's section": (("", ""), ["trian.batch=1"], ["--set trian.batch=1: trian is not a setting; did you mean 'train'?"]),
    "no section": (("[run]\nsteps = 10", "run = 10"), [], ["small.toml, line 2: run is 10; expected an object"]),
    "override's form": (("", ""), ["batch=1"], ["--set batch=1: expected section.key=value"]),
    "override of a value": (("", ""), ["train.batch.size=1"], ["--set train.batch.size=1: batch is 8, and not a section"]),
    "not TOML": (("[run]", "[run"), [], ["small.toml is not TOML", "line 2"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(file, mistake):
    (old, new), overrides, expected = MISTAKES[mistake]
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    message = str(caught.value)
    for part in expected:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [name for name, _ in recipes()])
def test_every_recipe_of_the_package_is_right(name):
    config = load(name)
    assert config.run.name == name
    assert config.model.build().parameters()
    assert config.build_optimizer().schedule(config.run.steps - 1) < 1


def test_recipes_are_found_by_name(file, monkeypatch):
    monkeypatch.setattr(read, "RECIPES", file.parent)
    assert recipes() == [("small", "A small model on the standard library.")]
    assert load("small") == load(file)
    with pytest.raises(ConfigError, match=r"no recipe 'smal'; did you mean 'small'\?"):
        load("smal")
    with pytest.raises(ConfigError, match=r"no file smal\.toml"):
        load("smal.toml")
