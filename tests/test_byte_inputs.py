"""Images of bytes train as the same images of floats do, on one rank and over several."""

import numpy as np
import pytest

import mpitrain as mt


@pytest.mark.parametrize("layout", [{}, {"dp": 2}, {"pp": 2}])
@pytest.mark.parametrize(
    ("model", "shape"), [(mt.nn.models.MLP(sizes=(6, 8, 8, 4)), (6,)), (mt.nn.models.ResNet(classes=4), (1, 8, 8))]
)
def test_bytes_train_as_the_same_floats(model, shape, layout):
    x, labels = np.random.default_rng(3).integers(0, 256, (8, *shape)).astype(np.uint8), np.arange(8) % 4
    layout, found = mt.Layout(**layout), []
    for inputs, where in ((x, layout), (x.astype(np.float64), mt.Layout())):
        mesh = mt.Mesh(mt.comm.local(where.dp * where.pp), where)
        data = mt.data.ArrayDataset(inputs, labels)
        options = {"batch": 8, "dtype": "float64", "arrays": "numpy", "sync_batch_norm": len(shape) == 3}
        found.append(mt.Trainer(model, mt.optim.SGD(lr=1e-4), data, mesh=mesh, **options).fit(3, report=lambda report: None))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose([a.loss, a.grad_norm], [b.loss, b.grad_norm], rtol=1e-10)
