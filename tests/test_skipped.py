"""A batch in which nothing is counted teaches nothing, and says so."""

import io

import numpy as np
import pytest

import mpitrain as mt
from mpitrain.observe import Progress


def ignored():
    """Samples of which no target counts."""
    return mt.data.ArrayDataset(np.random.default_rng(0).normal(size=(8, 6)), np.full(8, -100))


@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (2, 2)])
def test_a_batch_without_a_counted_target_is_skipped(dp, pp):
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    optimizer = mt.optim.AdamW(lr=0.1, weight_decay=0.1)
    reports = []
    job = mt.Trainer(
        mt.nn.models.MLP(sizes=(6, 8, 4)), optimizer, ignored(), mesh=mesh, batch=8, dtype="float64", arrays="numpy"
    )
    arrays = [p.data for worker in job.workers.values() for p in worker.holding.owned]
    before = [a.copy() for a in arrays]
    metrics = job.fit(2, report=reports.append)
    assert [(m.skipped, m.count) for m in metrics] == [(True, 0), (True, 0)]
    assert [r.skipped for r in reports] == [True, True]
    assert job.step == 2
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for worker in job.workers.values():
        for state in worker.holding.states.values():
            assert all(not array.any() for array, _ in state.arrays().values())
    stream = io.StringIO()
    Progress(stream, bar=False).step(reports[0])
    assert stream.getvalue().startswith("step 1 is skipped: none of its targets is counted")
