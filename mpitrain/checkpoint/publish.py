"""How a folder gets new weights: all of it is written beside the old, and then takes its place.

Invariant: whenever the process ends, readers find the old weights whole or the new ones whole, under one configuration or the
other; and what they would prefer to the new weights, or take for a part of them, goes.  Other files of the folder stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

from mpitrain.checkpoint.disk import flush, make_empty
from mpitrain.checkpoint.stored import CONFIG, INDEX, SINGLE

#: What is written, until it takes its place: a folder in the folder, so on the same file system.
STAGE = ".export.partial"
#: Weights in the formats that `transformers` looks for.
_WEIGHTS = (
    SINGLE,
    INDEX,
    "model*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*.bin",
)
#: What belongs to a model beside its weights, whoever trains it further.
_CARRIED = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "*.py",  # code that config.json names under auto_map
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


def begin(stage: Path, folder: Path) -> None:
    """Make the empty folder `stage`; `FileExistsError` if readers would not look at new weights in `folder`."""
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise FileExistsError(f"{adapter} makes the folder an adapter of another model; move it away, or choose another folder")
    make_empty(stage.parent)
    stage.mkdir()


def shard_names(folder: Path, shards: int) -> list[str]:
    """What so many files of weights are called: the usual names, or next to shards that `folder` has, others."""
    if shards == 1:
        return [SINGLE]
    stems = ("model" if i == 1 else f"model-{i}" for i in count(1))
    stem = next(stem for stem in stems if not any(folder.glob(f"{stem}-?????-of-?????.safetensors")))
    return [f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]


def carry(source: Path, stage: Path, folder: Path) -> str | None:
    """Copy from `source` what belongs to a model beside its weights, unless it is there: `folder` is the same.

    What is left behind, in words, if anything is; weights aside.
    """
    if not source.is_dir():
        return f"generation settings, tokenizer and licence of {source}, which is gone"
    if source.resolve() == folder.resolve():
        return None
    left = []
    for path in _visible(source):
        if path.is_file() and _matches(path, _CARRIED):
            shutil.copyfile(path, stage / path.name)
            flush(stage / path.name)
        elif path.name != CONFIG and not _matches(path, _WEIGHTS) and not folder.resolve().is_relative_to(path.resolve()):
            left.append(path.name)
    return f"{', '.join(left)} of {source}" if left else None


def publish(stage: Path, folder: Path) -> None:
    """Move every file of `stage` into `folder`, last the one by which readers find the new weights; remove the old ones."""
    *others, last = sorted((path.name for path in stage.iterdir()), key=lambda name: name in (SINGLE, INDEX))
    for names in (others, [last]):
        for name in names:
            os.replace(stage / name, folder / name)
        flush(folder)
    # A single file is preferred to an index: where the new weights have an index, they are found once the old single file goes.
    for path in _visible(folder):
        if _matches(path, _WEIGHTS) and path.name not in (*others, last):
            path.unlink()
    flush(folder)


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)
