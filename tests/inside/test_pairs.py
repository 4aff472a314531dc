"""Every pair inside PyTorch: no host reads, compiled, exported, mapped; equal to what it is eagerly."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import polytopes
import sst_cvx as sst
from tests.inside.table import FAST, SOLVED, SOME, NoHostReads, T, some, utilities, value_and_gradient

ALL = FAST + SOLVED
SOME_SOLVED = {
    "SpanningTree(4)-Euclidean()",
    "CorrelatedKSubset(n=5, k=2)-CategoricalEntropy()",
    "Permutahedron([1, 0.5, 0.5, 0.25, 0])-BinaryEntropy()",
}
CHOSEN = SOME | SOME_SOLVED
QUICK = {p.id for p in FAST if "Matching" not in p.id or "CategoricalEntropy" not in p.id} | SOME


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    sst.synchronize()


def close(found, expected, tolerance=1e-9):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("structure", "f"), some(FAST, QUICK))
def test_no_host_read(structure, f):
    soft, u = sst.SoftArgmax(structure, f, guard="nan"), utilities(structure, 2, 3)
    expected = value_and_gradient(lambda v: sst.SoftArgmax(structure, f)(v, T), u)
    mask, binary = torch.ones(structure.event_shape, dtype=torch.bool), structure.binary
    with NoHostReads():
        found = value_and_gradient(lambda v: soft(v, T), u)
        soft(u, torch.full((3,), T))
        if binary:
            value_and_gradient(lambda v: soft(v, T, mask=mask), u)
    close(found, expected)


@pytest.mark.parametrize("structure", polytopes.EXAMPLES, ids=repr)
def test_argmax_without_host_reads(structure):
    if not structure.argmax_on_device:
        pytest.skip("by an operator, on the host")
    u, expected = utilities(structure, 2, 3), None
    expected = structure.argmax(u)
    with sst.guard("nan"), NoHostReads():
        found = structure.argmax(u)
        if structure.has_log_partition():
            structure.log_partition(u)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("structure", "f"), some(FAST, QUICK))
def test_shapes_without_numbers(structure, f):
    soft = sst.SoftArgmax(structure, f)
    with FakeTensorMode(allow_non_fake_inputs=True):  # what a structure keeps is real
        assert soft(torch.empty(3, *structure.event_shape), T).shape == (3, *structure.event_shape)


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.exhaustive), "aot_eager"])
@pytest.mark.parametrize(("structure", "f"), some(ALL, CHOSEN))
def test_compiled_cold(structure, f, backend):
    soft, u = sst.SoftArgmax(structure, f), utilities(structure, 3)
    found = value_and_gradient(torch.compile(lambda v: soft(v, T), fullgraph=True, backend=backend), u)
    close(found, value_and_gradient(lambda v: sst.SoftArgmax(structure, f)(v, T), u), 1e-8)


INDUCTOR = {"OneHot(n=5)-CategoricalEntropy()", "SpanningTree(4)-Euclidean()"}


@pytest.mark.parametrize(("structure", "f"), some([p for p in ALL if p.id in CHOSEN | INDUCTOR], set()))
def test_compiled_by_inductor(structure, f):
    soft, u = sst.SoftArgmax(structure, f), utilities(structure, 3)
    found = value_and_gradient(torch.compile(lambda v: soft(v, T), fullgraph=True), u)
    close(found, value_and_gradient(lambda v: soft(v, T), u), 1e-8)


class Layer(torch.nn.Module):
    def __init__(self, soft):
        super().__init__()
        self.soft = soft

    def forward(self, u):
        return self.soft(u, T)


@pytest.mark.parametrize(("structure", "f"), some(ALL, CHOSEN))
def test_exported(structure, f):
    layer, u = Layer(sst.SoftArgmax(structure, f)), utilities(structure, 3)
    if "gradient of log_partition" in repr(layer.soft):
        with pytest.raises(NotImplementedError, match="takes no derivatives inside"):
            torch.export.export(layer, (u,))
        return
    program = torch.export.export(layer, (u,))
    other = utilities(structure, 3)
    close([program.module()(other)], [layer(other)])


@pytest.mark.parametrize(("structure", "f"), some(ALL, CHOSEN))
def test_mapped(structure, f):
    soft, u, t = sst.SoftArgmax(structure, f), utilities(structure, 2, 3), torch.tensor([0.7, 1.1]).double()
    expected = torch.stack([soft(v, s) for v, s in zip(u, t, strict=True)])
    close([vmap(soft)(u, t), vmap(vmap(soft))(u, t[:, None].expand(2, 3))], [expected, expected])

    def loss(v, s):
        return soft(v, s).square().sum()

    slopes = vmap(grad(loss, argnums=(0, 1)))(u, t)
    each = [grad(loss, argnums=(0, 1))(v, s) for v, s in zip(u, t, strict=True)]
    close(slopes, [torch.stack(part) for part in zip(*each, strict=True)], 1e-8)


@pytest.mark.parametrize(("structure", "f"), some(FAST, SOME))
def test_transforms(structure, f):
    """Jacobians of both modes, and Hessians, against autograd."""
    soft, u = sst.SoftArgmax(structure, f), utilities(structure)
    jacobian = torch.autograd.functional.jacobian(lambda v: soft(v, T), u)
    close([jacrev(lambda v: soft(v, T))(u), jacfwd(lambda v: soft(v, T))(u)], [jacobian, jacobian], 1e-8)
    tangent = utilities(structure)
    _, forward = jvp(lambda v: soft(v, T), (u,), (tangent,))
    (backward,) = vjp(lambda v: soft(v, T), u)[1](tangent)
    close([forward], [backward], 1e-8)

    def loss(v):
        return soft(v, T).pow(3).sum()

    close([hessian(loss)(u)], [torch.autograd.functional.hessian(loss, u)], 1e-7)
    close([functional_call(Layer(soft), {}, (u,))], [soft(u, T)])


FEW = {"OneHot(n=5)-Euclidean()", "SpanningTree(4)-ExponentialFamilyEntropy()", "SpanningTree(4)-Euclidean()"}


@pytest.mark.parametrize(("structure", "f"), some([p for p in ALL if p.id in CHOSEN], FEW))
def test_batch_sizes_do_not_recompile(structure, f):
    counter, soft = CompileCounter(), sst.SoftArgmax(structure, f)
    compiled = torch.compile(lambda v: soft(v, T), fullgraph=True, backend=counter)
    for batch in (3, 4, 7, 12, 5):
        u = utilities(structure, batch)
        close([compiled(u)], [soft(u, T)])
    assert counter.frame_count <= 2


@pytest.mark.parametrize(("structure", "f"), some([p for p in ALL if p.id in CHOSEN], FEW))
def test_temperatures_of_a_schedule_compile_once_more(structure, f):
    """A number that changes becomes a symbol, whose size compilers may compare and nothing else."""
    counter, soft, u = CompileCounter(), sst.SoftArgmax(structure, f), utilities(structure, 4)
    compiled = torch.compile(lambda v, t: soft(v, t), fullgraph=True, backend=counter)
    schedule = sst.ExponentialSchedule(1.0, 0.1, 6)
    for step in range(6):
        close([compiled(u, schedule(step))], [soft(u, schedule(step))])
    assert counter.frame_count <= 2
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Observed exception"):  # ValueError, in a whole graph
        compiled(u, -1.0)
