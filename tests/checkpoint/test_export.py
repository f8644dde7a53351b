"""What a job writes for `transformers`: from every layout, whole or not at all, with all that the model's own folder had."""

import functools
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained_cases import CONFIGS, theirs_of, tokens_of
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel

import mpitrain as mt
from mpitrain import snapshot
from mpitrain.arrays import Arrays
from mpitrain.checkpoint import Weights, disk, export
from mpitrain.checkpoint.export import export_checkpoint
from mpitrain.checkpoint.publish import STAGE
from mpitrain.cli import main
from mpitrain.nn.models import GPT, MLP

SMALL = {"width": 8, "depth": 2, "heads": 2, "vocab": 11, "context": 6}
DATA = mt.data.TokenDataset(np.arange(60) % 7, 5)


def trainer(model, *, dp=1, pp=1, zero=0, data=DATA, **settings):
    layout = mt.Layout(dp=dp, pp=pp)
    mesh = mt.Mesh(mt.comm.local(layout.size), layout)
    return mt.Trainer(model, mt.optim.SGD(lr=0.1), data, mesh=mesh, zero=zero, arrays="numpy", **settings)


def tensors(folder):
    """All tensors of a folder, by the file that `transformers` prefers."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    names = [single.name] if single.exists() else sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}


def keeps_config(folder, source):
    """Whether `transformers` understands the config.json of both alike, but for what one spells out and where weights lie."""
    after, before = (AutoConfig.from_pretrained(path).to_dict() for path in (folder, source))
    where = ("_name_or_path", "transformers_weights")
    return all(after[key] == value for key, value in before.items() if value is not None and key not in where)


LAYOUTS = [
    {"dp": 1, "pp": 3, "zero": 0},
    {"dp": 2, "pp": 2, "zero": 0},
    {"dp": (2, 1), "pp": 2, "zero": 1},
    {"dp": 3, "pp": 1, "zero": 2},
    {"dp": 2, "pp": 2, "zero": 3},
]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_comes_back_tensor_by_tensor(name, tmp_path):
    """Each under a layout of its own: what was read is written again, from wherever it lay, in several files."""
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path / "a")
    vocab = theirs.config.vocab_size
    layout = LAYOUTS[list(CONFIGS).index(name) % len(LAYOUTS)]
    job = trainer(mt.from_pretrained(tmp_path / "a"), data=mt.data.TokenDataset(np.arange(60) % vocab, 5), **layout)
    assert job.export(tmp_path / "b", shard_bytes=9000) == tmp_path / "b"
    before, after = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert keeps_config(tmp_path / "b", tmp_path / "a")
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    ids = torch.tensor(tokens_of(theirs)[:, :-1])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs.eval()(ids).logits)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "dp={dp} pp={pp} zero={zero}".format(**layout))
def test_what_was_trained_is_what_is_loaded(layout, tmp_path):
    """The logits of the job's own stages are those of torch from the exported folder, and no longer the first ones."""
    job = trainer(GPT(**SMALL), microbatches=2, batch=8, **layout)
    ids = DATA.batch(np.arange(3))[0]

    def logits():
        return next(found for found in job._each(lambda worker: worker.predict(ids)) if found is not None)

    before = logits()
    job.fit(3, report=lambda _: None)
    job.export(tmp_path, shard_bytes=2000)
    files = {file.name: sum(t.nbytes for t in load_file(file).values()) for file in tmp_path.glob("*.safetensors")}
    assert len(files) > 3
    assert max(files.values()) <= 2000
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor(ids)).logits.numpy()
    scale = np.abs(found).max()
    np.testing.assert_allclose(logits(), found, rtol=0, atol=1e-5 * scale)
    assert np.abs(before - found).max() > 0.01 * scale
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_and_the_job_that_wrote_it_give_the_same_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job = trainer(GPT(**SMALL), dp=2, zero=3, pp=2, dtype="bfloat16")
    job.fit(1, report=lambda _: None, folder="runs/small")
    job.export("a", shard_bytes=1000)
    for given, out in (("small", "b"), ("runs/small/step-00000001", "c")):
        main_ok("export", given, "--to", out, "--shard-gb", "1e-6")
        assert f"runs/small/step-00000001 as a model for transformers in {out}\n" in capsys.readouterr().out
        assert {p.name: p.read_bytes() for p in Path(out).iterdir()} == {p.name: p.read_bytes() for p in Path("a").iterdir()}
    assert AutoModelForCausalLM.from_pretrained("a").dtype == torch.bfloat16
    with pytest.raises(SystemExit, match=r"mpitrain: could not export to a/config.json/d: rank 0: NotADirectoryError"):
        main(["export", "small", "--to", "a/config.json/d"])


def main_ok(*line):
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 0


def test_a_large_checkpoint_goes_through_a_small_memory(tmp_path):
    """Of 9.5 MB of weights two files of at most 0.3 MB, and what Python takes, are there at a time."""
    job = trainer(GPT(width=128, depth=12, heads=2, vocab=11, context=6), dp=2)
    checkpoint = job.save(tmp_path / "run")
    tracemalloc.start()
    try:
        export_checkpoint(checkpoint, tmp_path / "out", shard_bytes=300_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) > 9_500_000
    assert peak < 1_500_000, peak


def test_a_folder_that_is_written_again_has_the_usual_names_every_other_time(tmp_path):
    """The new files stand beside the old ones for a moment, so their names differ."""
    model = GPT(**SMALL)
    model.materialize(Arrays(), np.dtype("f4"))
    stems = []
    for _ in range(4):
        mt.save_pretrained(model, tmp_path, shard_bytes=3000)
        stems.append({path.name.partition("-0")[0] for path in tmp_path.glob("*.safetensors")})
    assert stems == [{"model"}, {"model-2"}, {"model"}, {"model-2"}]


def saved(folder, *, number, shards=False):
    """A model of `transformers` whose numbers are all `number`, at `folder`."""
    theirs = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=6, attn_pdrop=0.0))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.fill_(number)
    theirs.save_pretrained(folder, max_shard_size="2KB" if shards else "1GB")


def number(folder):
    """The number that both readers find everywhere."""
    ours = mt.from_pretrained(folder)
    ours.materialize(Arrays(), np.dtype("f4"))
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    found = {float(x) for p in ours.parameters() for x in p.data.ravel()}
    found |= {float(x) for p in theirs.parameters() for x in p.detach().ravel()}
    assert len(found) == 1, found
    return found.pop()


FORMS = [(old, new) for old in ("single", "shards") for new in ("single", "shards")]


@pytest.mark.parametrize(("old", "new"), FORMS, ids=lambda form: form)
def test_new_weights_are_found_whatever_was_there(old, new, tmp_path):
    folder = tmp_path / "out"
    saved(folder, number=1, shards=old == "shards")
    for stale in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"):
        (folder / stale).write_text("old")
    (folder / "notes.txt").write_text("mine")
    (folder / STAGE / "x").mkdir(parents=True)  # of a process that was killed
    model = mt.from_pretrained(folder)
    model.materialize(Arrays(), np.dtype("f4"))
    for parameter in model.parameters():
        parameter.data.fill(2)
    mt.save_pretrained(model, folder, shard_bytes=2000 if new == "shards" else 10**9)
    assert number(folder) == 2
    assert not list(folder.glob("pytorch_model*"))
    assert (folder / "notes.txt").read_text() == "mine"
    index = folder / "model.safetensors.index.json"
    weights = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    assert index.exists() is (new == "shards")
    assert {path.name for path in folder.glob("*.safetensors")} == weights
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "notes.txt").stat().st_mode}


@pytest.mark.parametrize(("old", "new"), FORMS, ids=lambda form: form)
def test_a_process_that_ends_at_any_moment_leaves_the_old_weights_or_the_new(old, new, tmp_path, monkeypatch):
    """Every change of the folder in turn is the last one that happens."""

    class EndError(BaseException):
        pass

    def attempt(moment):
        folder = tmp_path / str(moment)
        saved(folder, number=1, shards=old == "shards")
        model = mt.from_pretrained(folder)
        model.materialize(Arrays(), np.dtype("f4"))
        for parameter in model.parameters():
            parameter.data.fill(2)
        left = iter(range(moment))

        def until(change):
            def changed(*arguments):
                if next(left, None) is None:
                    raise EndError
                return change(*arguments)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", until(os.replace))
            patch.setattr(Path, "unlink", until(Path.unlink))
            try:
                mt.save_pretrained(model, folder, shard_bytes=2000 if new == "shards" else 10**9)
            except EndError:
                return number(folder), False
        return number(folder), True

    found, over = [], False
    while not over:
        value, over = attempt(len(found))
        found.append(value)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 2)


def test_what_the_source_had_beside_its_weights_goes_along(tmp_path):
    source = tmp_path / "source"
    rates = {"resid_pdrop": 0.25, "embd_pdrop": 0.25, "attn_pdrop": 0.125}
    ids = {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}
    theirs = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=6, **rates, **ids))
    theirs.generation_config = GenerationConfig(**ids, max_new_tokens=7)
    theirs.save_pretrained(source)
    beside = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "LICENSE")
    for name in (*beside, "README.md", "pytorch_model.bin"):
        (source / name).write_text(name)
    said = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(said | {"transformers_weights": "model.safetensors"}))
    job = trainer(mt.from_pretrained(source), pp=2)
    checkpoint = job.save(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"^not carried over to .*/job: README\.md of .*/source$"):
        job.export(tmp_path / "job", shard_bytes=1000)
    with pytest.warns(UserWarning, match=r"^not carried over to .*/checkpoint: README\.md of .*/source$"):
        export_checkpoint(checkpoint, tmp_path / "checkpoint", shard_bytes=1000)
    for folder in (tmp_path / "job", tmp_path / "checkpoint"):
        assert keeps_config(folder, source)
        assert GenerationConfig.from_pretrained(folder).to_dict() == GenerationConfig.from_pretrained(source).to_dict()
        assert all((folder / name).read_text() == name for name in beside)
        assert AutoModelForCausalLM.from_pretrained(folder).generation_config.max_new_tokens == 7
    source.rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match=r"generation settings, tokenizer and licence of .*/source, which is gone$"):
        export_checkpoint(checkpoint, tmp_path / "later")
    assert keeps_config(tmp_path / "later", tmp_path / "moved")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_job_trained_is_not_in_its_model(tmp_path):
    saved(tmp_path, number=1)
    before = contents(tmp_path)
    job = trainer(mt.from_pretrained(tmp_path), dp=2)
    says = r"^layers\.0\.tokens\.weight has no array here, .* job\.export\(folder\)$"
    with pytest.raises(ValueError, match=says):
        mt.save_pretrained(job.model, tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="shard_bytes is 0; expected"):
        job.export(tmp_path, shard_bytes=0)
    assert contents(tmp_path) == before


def test_a_folder_that_readers_take_for_an_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(OSError, match=r"adapter_config\.json makes the folder an adapter of another model; move it away, or"):
        trainer(GPT(**SMALL), pp=2).export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]


def test_a_model_without_a_public_format_is_named(tmp_path):
    class Mine(GPT):
        pass

    saved(tmp_path, number=1)
    before = contents(tmp_path)
    digits = mt.data.ArrayDataset(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
    for model, data in ((Mine(**SMALL), DATA), (MLP(sizes=[3, 2]), digits)):
        job = trainer(model, data=data)
        says = rf"a {type(model).__name__} has no Hugging Face format here \(expected a GPT or a Llama\)"
        written = job.save(tmp_path.with_name(f"{tmp_path.name}-{type(model).__name__}"))
        with pytest.raises(ValueError, match=says):
            job.export(tmp_path)
        with pytest.raises(SystemExit, match=f"mpitrain: checkpoint .* is of a {type(model).__name__}, which has no"):
            main(["export", str(written), "--to", str(tmp_path)])
        model.materialize(Arrays(), np.dtype("f4"))
        with pytest.raises(ValueError, match=says):
            mt.save_pretrained(model, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("there", [True, False], ids=["over an export", "to a new folder"])
def test_one_ranks_full_disk_stops_all_and_changes_nothing(there, tmp_path, monkeypatch):
    """The rank that cannot write is one that others send to, and it has more than one file to write."""
    original, folder = disk.save_file, tmp_path / "out"

    def full(arrays, file, metadata):
        if "lm_head.weight" in arrays or "transformer.h.1.ln_1.weight" in arrays:
            raise OSError(28, "No space left on device")
        original(arrays, file, metadata)

    if there:
        saved(folder, number=1, shards=True)
    before = contents(folder) if there else None
    job = trainer(GPT(**SMALL, tied=False), dp=2, pp=2, zero=3)
    monkeypatch.setattr(disk, "save_file", full)
    with pytest.raises(OSError, match=r"could not export to .*/out: rank \d: OSError: \[Errno 28\] No space left"):
        job.export(folder, shard_bytes=1000)
    assert (contents(folder) if folder.exists() else None) == before


class Rendezvous:
    """A communicator whose sends end once they were received, as MPI's do with large messages."""

    def __init__(self, comm):
        self.comm = comm

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def isend(self, x, dest, tag):
        self.comm.isend(x, dest, tag)
        return self.comm.irecv(np.empty(0), dest, tag + 1)

    def irecv(self, x, source, tag):
        self.comm.irecv(x, source, tag).wait()
        return self.comm.isend(np.empty(0), source, tag + 1)


@pytest.mark.parametrize("full", [False, True])
def test_ranks_that_send_wait_for_no_rank_that_cannot_write(full, tmp_path, monkeypatch):
    """Rank 1 has the last rows of everything and rank 0 writes it, or fails at the first of many files."""
    model = GPT(**SMALL)
    model.materialize(Arrays(), np.dtype("f4"))
    parts = {p.name: [((0, 1), *p.box[1:]), ((1, p.shape[0]), *p.box[1:])] for p in model.parameters()}
    data = {p.name: p.data for p in model.parameters()}
    weights = Weights(
        dtype=np.dtype("f4"),
        boxes={name: list(enumerate(boxes)) for name, boxes in parts.items()},
        read=lambda name, box: data[name][tuple(slice(*bounds) for bounds in box)],
    )
    folder = tmp_path / "out"
    mt.save_pretrained(model, tmp_path / "expected", shard_bytes=1000)
    world = mt.comm.local(2)
    run = functools.partial(world.run, lambda comm: export(model, weights, folder, Rendezvous(comm), shard_bytes=1000))
    if full:
        monkeypatch.setattr(disk, "save_file", lambda *_, **__: (folder / "none" / "x").touch())
        with pytest.raises(OSError, match=r"could not export to .*: rank 0: FileNotFoundError"):
            run()
    else:
        run()
        assert contents(folder) == contents(tmp_path / "expected")


@pytest.mark.filterwarnings("always:passing over")
def test_a_damaged_checkpoint_is_not_exported(tmp_path, capsys):
    written = trainer(GPT(**SMALL)).save(tmp_path / "run")
    file = written / "rank-00000.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)
    with pytest.raises(SystemExit, match=r"mpitrain: checkpoint file .* is damaged: its SHA-256 is"):
        main(["export", str(written), "--to", str(tmp_path / "out")])
    says = r"mpitrain: none of the 1 checkpoints in .*/run can be read"
    with pytest.raises(SystemExit, match=says):
        main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out")])
    assert f"mpitrain: passing over {written}: checkpoint file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"mpitrain: there is no checkpoint in .*/empty; expected a run's folder, or"):
        main(["export", str(tmp_path / "empty"), "--to", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_rank_with_a_disk_of_its_own_lets_rank_0_write(tmp_path):
    job = trainer(GPT(**SMALL), dp=2, pp=2, zero=3)
    disks = [tmp_path / str(rank) / "out" for rank in range(4)]
    job._each(lambda worker: snapshot.write_pretrained(worker, disks[worker.place.comm.rank], shard_bytes=1000))
    assert [disk.exists() for disk in disks] == [True, False, False, False]
    job.export(tmp_path / "shared", shard_bytes=1000)
    assert contents(disks[0]) == contents(tmp_path / "shared")
