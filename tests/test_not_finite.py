"""Data that are not finite are named, and not the layer that they reached."""

import numpy as np
import pytest

import mpitrain as mt


@pytest.mark.parametrize("what", ["input", "target"])
@pytest.mark.parametrize(("dp", "pp"), [(1, 1), (2, 1), (1, 2)])
def test_the_sample_is_named(what, dp, pp):
    random = np.random.default_rng(0)
    arrays = {"input": random.normal(size=(8, 6)), "target": random.normal(size=(8, 4))}
    arrays[what][:, 2] = np.nan
    model = mt.nn.Model([mt.nn.Linear(6, 5), mt.nn.ReLU(), mt.nn.Linear(5, 4)], mt.nn.MeanSquaredError())
    mesh = mt.Mesh(mt.comm.local(dp * pp), mt.Layout(dp=dp, pp=pp))
    data = mt.data.ArrayDataset(*arrays.values())
    job = mt.Trainer(model, mt.optim.SGD(lr=0.1), data, mesh=mesh, batch=8, dtype="float64", arrays="numpy")
    with pytest.raises(mt.nn.NotFiniteError, match=f"the {what} of sample [04], in microbatch 0, is not finite"):
        job.fit(1, report=lambda report: None)
