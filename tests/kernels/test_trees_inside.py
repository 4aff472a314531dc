"""Trees and matroids where the host must not be asked: against the algorithms of the CPU, and in every mode."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import polytopes
import sst_cvx as sst
from polytopes.kernels.best_tree import best_tree
from polytopes.kernels.exact_samples import sample_tree
from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_log_elimination import exchanged, widest_start
from polytopes.kernels.tree_sum import log_tree_sum, tree_marginals

SCALES = [1e-3, 1.0, 30.0, 1e3, 1e4]
GRAPH = torch.tensor([[0, 0, 0, 1, 3, 3, 5, 2], [1, 1, 2, 2, 4, 4, 5, 1]])  # parallels, a loop, two components
STRUCTURES = [
    polytopes.SpanningTree(5),
    polytopes.SpanningTree(torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 2]])),
    polytopes.Arborescence(5),
    polytopes.Arborescence(4, root=2, single_root=True),
    polytopes.Arborescence(4, root=None),
    polytopes.MatroidBases.graphic(GRAPH),
    polytopes.MatroidBases(5, lambda sets: sets.sum(-1).clamp(max=2)),
]


class NoReads(TorchDispatchMode):
    """Refuses what would wait for a device."""

    names = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item", "_unique2", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.names, name
        if name == "index":
            assert not any(i is not None and i.dtype == torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


def inside(function, *inputs):
    with sst.guard("nan"), NoReads():
        return function(*inputs)


def weights(n, scale, seed=0, sparse=False):
    generator = torch.Generator().manual_seed(seed)
    w = scale * torch.randn(6, n, n, dtype=torch.float64, generator=generator)
    if sparse:  # a random tree from the root stays, through one vertex
        keep = torch.rand(6, n, n, generator=generator) < 0.3
        keep[:, 0] = False
        order = [0, *(1 + torch.randperm(n - 1, generator=generator)).tolist()]
        keep[:, order[:-1], order[1:]] = True
        w = torch.where(keep, w, ABSENT)
    return w.masked_fill(torch.eye(n, dtype=torch.bool), ABSENT)


def derivatives(w, single_root):
    """log Z, its gradient, the marginals, and their derivatives twice."""
    w = w.clone().requires_grad_()
    c = torch.linspace(-1, 1, w.shape[-1] ** 2, dtype=w.dtype).reshape(w.shape[-2:])
    total = log_tree_sum(w, single_root)
    (x,) = torch.autograd.grad(total.sum(), w, create_graph=True)
    m = tree_marginals(w, single_root)
    (first,) = torch.autograd.grad((m * c).sum(), w, create_graph=True)
    (second,) = torch.autograd.grad((first * c.mT).square().sum(), w)
    return total, x, m, first, second


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_sums_and_marginals_are_those_of_the_eager_algorithms(scale, single_root, sparse):
    for n in (2, 3, 8):
        w = weights(n, scale, sparse=sparse)
        expected, got = derivatives(w, single_root), inside(derivatives, w, single_root)
        torch.testing.assert_close(got[0], expected[0], rtol=1e-14, atol=1e-10)
        for a, b in zip(got[1:], expected[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_derivatives_of_the_log_domain_against_differences():
    for single_root in (False, True):
        w = weights(4, 1.0)[:2].requires_grad_()
        with sst.guard("nan"):
            for function in (log_tree_sum, tree_marginals):
                of = functools.partial(function, single_root=single_root)
                torch.autograd.gradcheck(of, w, check_forward_ad=True)
                torch.autograd.gradgradcheck(of, w)


def test_widest_start_reaches_all_others():
    w = torch.full((4, 4), ABSENT, dtype=torch.float64)
    w[0, 1:] = 0.0
    w[2, 1] = w[1, 3] = -1e4  # only 2 reaches 1 and 3
    assert widest_start(w) == 2
    assert torch.equal(exchanged(exchanged(w, widest_start(w)), widest_start(w)), w)
    assert inside(log_tree_sum, w, True) == -2e4


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_best_trees_are_the_same(single_root, ties):
    for n, seed in itertools.product((2, 3, 4, 9), range(5)):
        w = weights(n, 1.0, seed)
        w = w.round() if ties else w
        assert torch.equal(inside(best_tree, w, single_root), best_tree(w, single_root))


def test_nested_cycles_need_all_rounds():
    """Each cycle, contracted, is on the next: as many rounds as there are vertices."""
    n = 12
    w = torch.full((1, n, n), -torch.inf, dtype=torch.float64)
    for v in range(1, n - 1):
        w[0, v + 1, v] = w[0, v, v + 1] = -float(v)
    w[0, 0, 1:] = -1e4
    got = inside(best_tree, w)
    assert torch.equal(got, best_tree(w))
    heads = torch.arange(1, n)
    assert torch.isfinite(w[0, got[0, 1:], heads]).all()
    assert (got[0, 1:] == 0).sum() == 1


@pytest.mark.parametrize("single_root", [False, True])
def test_samples_have_the_probabilities_of_their_trees(single_root):
    w = weights(4, 1.0)[0]
    trees = [
        parents
        for parents in itertools.product(range(4), repeat=3)
        if _is_tree((0, *parents)) and (not single_root or parents.count(0) == 1)
    ]
    logs = torch.stack([w[list(parents), [1, 2, 3]].sum() for parents in trees])
    torch.testing.assert_close(logs.logsumexp(0), inside(log_tree_sum, w, single_root))
    count = 20_000
    drawn = inside(sample_tree, w.expand(count, 4, 4), single_root, torch.Generator().manual_seed(0))
    rows = torch.tensor([(0, *parents) for parents in trees])
    found = (drawn[:, None] == rows).all(-1)
    assert found.any(1).all()
    p = logs.softmax(0)
    assert ((found.double().mean(0) - p).abs() < 5 * (p * (1 - p) / count).sqrt() + 1e-4).all()


def _is_tree(parent):
    for v in range(1, len(parent)):
        for _ in range(len(parent)):
            v = parent[v]
        if v:
            return False
    return True


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_samples_at_any_scale_are_elements(structure, scale):
    if not structure.overrides("sample"):
        pytest.skip("samples from the list")
    u = scale * torch.randn(20, *structure.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sample = type(structure).sample.__wrapped__
    x = inside(sample, structure, u, torch.Generator().manual_seed(0))
    vertices = structure.vertices()
    assert (x[:, None] == vertices).all(-1).any(1).all()
    if scale == 1e4:  # nothing but the best
        torch.testing.assert_close(x, structure.argmax(u))


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_argmax_reads_nothing(structure):
    argmax = type(structure).argmax.__wrapped__
    generator = torch.Generator().manual_seed(0)
    for shape in ((), (5,), (2, 3)):
        for scale in (0.0, 1.0):
            u = scale * torch.randn(*shape, *structure.event_shape, dtype=torch.float64, generator=generator)
            assert torch.equal(inside(argmax, structure, u), structure.argmax(u))
    u = torch.randn(4, *structure.event_shape, dtype=torch.float64, generator=generator)
    assert torch.equal(torch.func.vmap(lambda v: argmax(structure, v))(u), structure.argmax(u))
    compiled = torch.compile(lambda v: argmax(structure, v), fullgraph=True, backend="eager")
    assert torch.equal(compiled(u), structure.argmax(u))


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_modes_agree(structure):
    """Values, gradients, Jacobians and Hessians of the soft argmax, float64, by torch.func and by the loop."""
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    u = 2 * torch.randn(3, *structure.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = soft(u, 0.5)
    assert torch.allclose(x, torch.func.vmap(lambda v: soft(v, 0.5))(u), atol=1e-12)
    rows = torch.stack([torch.autograd.functional.jacobian(lambda v: soft(v, 0.5), v) for v in u])
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert torch.allclose(torch.func.vmap(transform(lambda v: soft(v, 0.5)))(u), rows, atol=1e-11)
    assert torch.allclose(torch.func.jacfwd(lambda v: soft(v, 0.5))(u[0]), rows[0], atol=1e-11)

    def loss(v):
        return soft(v, 0.5).square().sum()

    second = torch.stack([torch.autograd.functional.hessian(loss, v) for v in u])  # pyright: ignore
    assert torch.allclose(torch.func.vmap(torch.func.hessian(loss))(u), second, atol=1e-10)
    total = torch.func.vmap(torch.func.hessian(structure.log_partition))(u)
    expected = torch.stack([torch.autograd.functional.hessian(structure.log_partition, v) for v in u])  # pyright: ignore
    assert torch.allclose(total, expected, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("structure", [polytopes.SpanningTree(4), *STRUCTURES[3:6:2]], ids=repr)
def test_compiled_at_any_scale_and_batch_size(structure):
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(soft, fullgraph=True, backend=counter)
    generator = torch.Generator().manual_seed(0)
    for size, scale in zip((4, 5, 6, 7, 2), SCALES, strict=True):
        u = scale * torch.randn(size, *structure.event_shape, dtype=torch.float64, generator=generator)
        v, w = u.clone().requires_grad_(), u.clone().requires_grad_()
        expected, x = soft(w), compiled(v)
        cotangent = torch.arange(x.shape[-1])
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(*_gradients(x, v, expected, w, cotangent), rtol=0, atol=1e-10)
    assert counter.frame_count <= 2


def _gradients(x, v, y, w, cotangent):
    return [torch.autograd.grad((out * cotangent).sum(), into)[0] for out, into in ((x, v), (y, w))]


@pytest.mark.slow
def test_transforms_compile():
    soft = sst.SoftArgmax(polytopes.Arborescence(3, root=None), sst.ExponentialFamilyEntropy())
    u = 100 * torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()

    def gradients(u):
        return torch.func.vmap(torch.func.grad(lambda v: soft(v).square().sum()))(u)

    compiled = torch.compile(gradients, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), gradients(u), rtol=0, atol=1e-10)

    def mean(u):
        return torch.func.grad(lambda v: soft.structure.log_partition(v).sum())(u)

    torch.testing.assert_close(torch.compile(mean, fullgraph=True, backend="aot_eager")(u), soft(u), rtol=0, atol=1e-10)


def test_what_is_not_finite_stays_in_its_element():
    w = weights(5, 1.0)
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoiled = w.clone()
        spoiled[2, 1, 3] = bad
        rest = [0, 1, 3, 4, 5]
        for function in (log_tree_sum, tree_marginals):
            for single_root in (False, True):
                got = inside(function, spoiled, single_root)
                torch.testing.assert_close(got[rest], inside(function, w, single_root)[rest], rtol=0, atol=0)
        inside(best_tree, spoiled)
        inside(sample_tree, spoiled, False, None)


@pytest.mark.parametrize("structure", STRUCTURES[:6], ids=repr)
def test_masks_inside(structure):
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    generator = torch.Generator().manual_seed(0)
    best = structure.argmax(torch.randn(4, *structure.event_shape, generator=generator))
    mask = best > 0
    mask[:2] |= torch.rand(mask[:2].shape, generator=generator) < 0.7
    for scale in SCALES:
        u = scale * torch.randn(4, *structure.event_shape, dtype=torch.float64, generator=generator)
        with sst.guard("nan"):
            got = soft(u, 0.5, mask=mask)
        torch.testing.assert_close(got, soft(u, 0.5, mask=mask), rtol=0, atol=1e-9)
