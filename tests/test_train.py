"""The Trainer as a script uses it: it resumes, validates, generates, checks itself, and refuses what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mpitrain as mt
from mpitrain import snapshot
from mpitrain.autograd import Op, Tensor
from mpitrain.checkpoint import find
from mpitrain.nn.init import ONES


def gpt(**settings):
    return mt.nn.models.GPT(**{"width": 16, "depth": 2, "heads": 2, "vocab": 31, "context": 8} | settings)


def tokens(count=30, vocab=31):
    return mt.data.TokenDataset((np.arange(8 * count + 1) ** 2 % vocab).astype(np.uint8), 8)


def trainer(model=None, *, dp=1, pp=1, data=None, **settings):
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    settings = {"batch": 6, "microbatches": 2, "dtype": "float64", "arrays": "numpy"} | settings
    optimizer = mt.optim.AdamW(lr=1e-2, schedule=mt.optim.Cosine(steps=20, warmup=2))
    return mt.Trainer(gpt() if model is None else model, optimizer, data or tokens(), mesh=mesh, **settings)


def quiet(report):
    pass


class Scale(Op):
    """y = x * w: an op as a user writes it."""

    def forward(self, x, w):
        self.x, self.w = x, w
        return x * w

    def input_grad(self, dy):
        return (dy * self.w,)

    def weight_grad(self, dy, *out):
        out[0][...] = (dy * self.x).sum(axis=0)


class Scaled(mt.nn.Module):
    """A layer as a user writes it."""

    def __init__(self, width):
        self.weight = mt.nn.Parameter((width,), ONES)

    def forward(self, x):
        return Scale()(x, weights=[self.weight])


class Twice(mt.nn.Module):
    """Two tensors of one."""

    def forward(self, x):
        return x, x


def test_a_last_layer_of_two_tensors_is_refused():
    model = mt.nn.Model([mt.nn.Linear(5, 5), Twice()], mt.nn.MeanSquaredError())
    data = mt.data.ArrayDataset(np.ones((12, 5)), np.ones((12, 5)))
    with pytest.raises(ValueError, match="the model's last layer gives 2 tensors; expected one, which the loss takes"):
        trainer(model, data=data, stages=[2]).fit(1, report=quiet)


def test_a_users_own_op_trains_under_any_layout():
    random = np.random.default_rng(0)
    data = mt.data.ArrayDataset(random.normal(size=(40, 5)), random.normal(size=(40, 5)))
    losses = []
    for dp, pp in [(1, 1), (2, 2), (1, 3)]:
        model = mt.nn.Model([Scaled(5), mt.nn.Linear(5, 5), Scaled(5)], mt.nn.MeanSquaredError())
        job = trainer(model, dp=dp, pp=pp, data=data)
        losses.append([m.loss for m in job.fit(5, report=quiet)])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-10)


@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (2, 1), (1, 4)])
def test_a_job_goes_on_under_another_layout(tmp_path, dp, pp):
    straight = [m.loss for m in trainer(gpt(dropout=0.1)).fit(8, report=quiet)]
    first = trainer(gpt(dropout=0.1), dp=2, pp=2)
    losses = [m.loss for m in first.fit(5, report=quiet, folder=tmp_path, save_every=2, keep=2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    second = trainer(gpt(dropout=0.1), dp=dp, pp=pp)
    assert second.resume(tmp_path) == tmp_path / "step-00000005"
    assert second.step == 5
    losses += [m.loss for m in second.fit(3, report=quiet)]
    np.testing.assert_allclose(losses, straight, rtol=1e-9)  # AdamW, so a little above the bound for plain sums


def test_overlap_changes_when_gradients_are_summed_and_nothing_else():
    jobs = [trainer(dp=2, overlap=overlap) for overlap in (True, False)]
    kinds = [[action.kind.name for action in job.workers[0].training] for job in jobs]
    assert ["ARM" in found for found in kinds] == [True, False]
    losses = [[m.loss for m in job.fit(4, report=quiet)] for job in jobs]
    assert losses[0] == losses[1]  # two replicas: a sum of two numbers has one order


def test_the_rate_that_is_told_is_the_one_that_was_used():
    """Gradient descent moves the weights by the rate times the gradient, whose norm is known."""
    mesh = mt.Mesh(mt.comm.local(1), mt.Layout())
    optimizer = mt.optim.SGD(lr=0.5, schedule=mt.optim.Linear(steps=6, warmup=2))
    job = mt.Trainer(gpt(), optimizer, tokens(), mesh=mesh, batch=6, dtype="float64", arrays="numpy")
    weights = [p.data for p in job.workers[0].holding.owned]
    used, told = [], []
    for _ in range(4):
        before = [w.copy() for w in weights]
        [metrics] = job.fit(1, report=lambda report: told.append(report.learning_rate))
        moved = np.sqrt(sum(((w - b) ** 2).sum() for w, b in zip(weights, before, strict=True)))
        used.append(moved / metrics.grad_norm)
        assert metrics.learning_rate == told[-1]
    np.testing.assert_allclose(told, used, rtol=1e-9)
    np.testing.assert_allclose(told[:2], [0.5 / 3, 1 / 3])


def test_a_folder_is_the_jobs_own_while_it_fits(tmp_path):
    job, other = trainer(), trainer(dp=2)

    def intrude(report):
        with pytest.raises(ValueError, match=r"belongs to another job, process \d+"):
            other.save(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.fit(2, report=intrude, folder=tmp_path)
    assert trainer().save(tmp_path).name == "step-00000000"  # it was given back


def test_a_job_whose_folder_was_taken_over_writes_no_more(tmp_path):
    job = trainer(dp=2)

    def take_over(report):
        if report.step == 1:
            (tmp_path / "owner").rename(tmp_path / "elsewhere")

    with pytest.raises(ValueError, match="no longer belongs to this job: its lock was removed"):
        job.fit(3, report=take_over, folder=tmp_path, save_every=2)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_step_is_told_before_it_is_saved(tmp_path):
    """So that a run which is killed between the two has a line for each step when it goes on."""
    saved = []
    trainer().fit(3, report=lambda _: saved.append(len(list(tmp_path.glob("step-*")))), folder=tmp_path, save_every=1, keep=9)
    assert saved == [0, 1, 2]


def test_there_may_be_nothing_to_resume(tmp_path):
    job = trainer()
    assert job.resume(tmp_path) is None
    assert job.step == 0


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is nothing at .*typo; expected the path of a checkpoint, or of a folder"):
        trainer(dp=2).resume(tmp_path / "typo")
    assert trainer(dp=2).resume(tmp_path / "first start", missing_ok=True) is None


def test_a_damaged_checkpoint_is_passed_over_and_the_older_one_kept(tmp_path):
    straight = [m.loss for m in trainer().fit(5, report=quiet)]
    trainer(dp=2).fit(4, report=quiet, folder=tmp_path, save_every=2)
    file = tmp_path / "step-00000004" / "rank-00001.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)
    job = trainer(dp=2)
    with pytest.warns(UserWarning, match=r"passing over .*step-00000004: .*rank-00001.safetensors is damaged") as said:
        assert job.resume(tmp_path) == tmp_path / "step-00000002"
    assert len(said) == 1
    losses = [m.loss for m in job.fit(1, report=quiet, folder=tmp_path, keep=2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{i}" for i in (2, 3, 4)]
    losses += [m.loss for m in job.fit(2, report=quiet, folder=tmp_path, save_every=1, keep=1)]
    np.testing.assert_allclose(losses, straight[2:], rtol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize(("dp", "pp", "zero"), [(2, 2, 0), (2, 2, 3), (1, 4, 0)])
def test_a_job_goes_on_from_disks_of_its_hosts(tmp_path, dp, pp, zero):
    """Ranks 0 and 1 are on one host, ranks 2 and 3 on another; under another layout they need what the others wrote."""

    def disk(worker):
        return tmp_path / f"disk{worker.place.comm.rank // 2}"

    straight = [m.loss for m in trainer().fit(4, report=quiet)]
    first = trainer(dp=2, pp=2, zero=zero)
    losses = [m.loss for m in first.fit(2, report=quiet)]
    first._each(lambda worker: snapshot.write(worker, disk(worker)))
    second = trainer(dp=dp, pp=pp, zero=zero)
    second._each(lambda worker: snapshot.restore(worker, find(worker.place.comm, disk(worker))))
    losses += [m.loss for m in second.fit(2, report=quiet)]
    np.testing.assert_allclose(losses, straight, rtol=1e-9)


def test_another_models_checkpoint_is_refused(tmp_path):
    trainer().save(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint .* is of another model: of 40 parameters, 14 missing from it: layers\.3"):
        trainer(gpt(depth=3)).resume(tmp_path)


def test_a_checkpoint_says_what_it_is_of(tmp_path):
    path = trainer(dp=2, pp=2).save(tmp_path)
    meta = json.loads((path / "manifest.json").read_text())["meta"]
    assert meta["model"]["kind"] == "GPT"
    assert meta["model"]["width"] == 16
    assert len(list(path.glob("*.safetensors"))) == 4


@pytest.mark.parametrize("samples", [1, 5, 13])
def test_validation_counts_every_sample_once(samples):
    data = tokens(samples)
    whole = trainer(batch=samples, microbatches=1).evaluate(data)
    for dp, pp in [(2, 1), (2, 2), (3, 1)]:
        dealt = trainer(dp=dp, pp=pp).evaluate(data)
        assert dealt.count == whole.count == samples * 8
        np.testing.assert_allclose(dealt.loss, whole.loss, rtol=1e-12)


def test_every_layout_writes_the_same_text():
    texts = []
    for dp, pp in [(1, 1), (2, 1), (1, 3), (2, 2)]:
        job = trainer(dp=dp, pp=pp)
        job.fit(3, report=quiet)
        texts.append(job.generate([1, 2, 3], 20, temperature=0.8, seed=5))
    assert texts[0][:3] == [1, 2, 3]
    assert len(texts[0]) == 23
    assert texts[1:] == [texts[0]] * 3


def test_greedy_text_is_the_argmax():
    job = trainer()
    job.fit(3, report=quiet)
    worker = job.workers[0]
    prompt = [1, 2, 3]
    logits = worker.predict(np.array([[1, 2, 3, 0, 0, 0, 0, 0]]))
    assert job.generate(prompt, 1, temperature=0.0)[-1] == logits[0, 2].argmax()


def test_the_self_check_passes_and_can_fail():
    job = trainer(dp=2, pp=2)
    job.fit(2, report=quiet)
    found = job.self_check()
    assert found.equal
    assert found.gradient < 1e-12
    worker = job.workers[3]  # a replica whose weights have drifted
    worker.holding.owned[0].data *= 1.01
    found = job.self_check()
    assert not found.equal
    before = [m.loss for m in job.fit(1, report=quiet)]
    assert np.isfinite(before).all()


class Overflow(mt.nn.Module):
    """Not finite from the second batch on."""

    def forward(self, x):
        late = min(x.context.samples, default=0) >= 6
        return Tensor(x.data * (np.inf if late else 1.0), context=x.context, needs_grad=x.needs_grad, op=x.op)


@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (1, 3), (2, 2)])
def test_a_loss_that_is_not_a_number_names_the_first_module(dp, pp):
    model = mt.nn.models.MLP(sizes=(4, 4, 4, 3))
    layers = [*model.layers[:2], Overflow(), *model.layers[2:]]
    random = np.random.default_rng(0)
    data = mt.data.ArrayDataset(random.normal(size=(40, 4)), random.integers(0, 3, 40))
    job = trainer(mt.nn.Model(layers, mt.nn.CrossEntropy()), dp=dp, pp=pp, data=data)
    with np.errstate(all="ignore"):
        job.fit(1, report=quiet)
        with pytest.raises(mt.nn.NotFiniteError, match=r"the output of module layers\.2 \(Overflow\) is not finite"):
            job.fit(1, report=quiet)


class BadGradient(Op):
    """Identity whose gradient is not a number."""

    def forward(self, x):
        return x

    def input_grad(self, dy):
        return (dy * np.nan,)


class Through(mt.nn.Module):
    def forward(self, x):
        return BadGradient()(x)


def test_a_gradient_that_is_not_a_number_names_its_parameter():
    model = mt.nn.Model([mt.nn.Linear(4, 4), Through(), mt.nn.Linear(4, 3)], mt.nn.CrossEntropy())
    data = mt.data.ArrayDataset(np.ones((40, 4)), np.zeros(40, np.int64))
    with pytest.raises(mt.nn.NotFiniteError, match=r"all outputs are finite, the gradient of layers\.0\.weight is not"):
        trainer(model, pp=3, data=data).fit(1, report=quiet)


REFUSED = {
    "world": (lambda: mt.Mesh(mt.comm.local(3), mt.Layout(dp=2, pp=2)), "layout dp=2 x pp=2 needs 4 ranks and this job has 3"),
    "stages": (lambda: trainer(pp=5), "5 stages were asked for and the model has 4 layers"),
    "batch": (lambda: trainer(dp=2, batch=3), "the batch has 3 samples for dp=2 x microbatches=2"),
    "vocabulary": (lambda: trainer(gpt(vocab=28)), "token 28 at position 11 .* the vocabulary holds 28"),
    "schedule": (lambda: trainer(schedule="1b1f"), "schedule '1b1f' is not known; expected one of gpipe, 1f1b"),
    "dtype": (lambda: trainer(dtype="float8"), "dtype 'float8' is not a floating-point type"),
    "no data": (lambda: trainer().evaluate(), "no data to evaluate on"),
    "prompt": (lambda: trainer().generate([], 3), "the prompt is empty"),
}


@pytest.mark.parametrize(("attempt", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(attempt, says):
    with pytest.raises(ValueError, match=says):
        attempt()


@pytest.mark.parametrize("setting", ["keep", "save_every", "validate_every", "validation_batches"])
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_count_that_is_none_is_refused_before_anything_is_written(setting, count, tmp_path):
    job = trainer()
    with pytest.raises(ValueError, match=f"{setting} is {count}; expected an integer of at least 1"):
        job.fit(1, report=quiet, folder=tmp_path, **{setting: count})
    with pytest.raises(ValueError, match="keep is 0"):
        job.save(tmp_path, keep=0)
    assert (job.step, list(tmp_path.iterdir())) == (0, [])


def test_an_error_names_its_action():
    class Fails(mt.nn.Module):
        def forward(self, x):
            if x.context.record:
                raise RuntimeError("boom")
            return x

    model = mt.nn.Model([mt.nn.Linear(4, 4), Fails(), mt.nn.Linear(4, 3)], mt.nn.CrossEntropy())
    data = mt.data.ArrayDataset(np.ones((40, 4)), np.zeros(40, np.int64))
    with pytest.raises(RuntimeError, match="boom") as caught:
        trainer(model, pp=3, data=data).fit(1, report=quiet)
    assert "in action 1F0: F of stage 1, microbatch 0" in caught.value.__notes__
