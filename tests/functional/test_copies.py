"""A copy stands for its model: leftovers of graphs, sparse gradients, wrappers; what cannot be copied is refused."""

import copy
import threading
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import onsphere
from onsphere.functional.untouched import private_copy, shared_copy


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 8, generator=generator), torch.randint(3, (32,), generator=generator)


def net():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh())
    return nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), inner, nn.Linear(16, 3))


GROUPS = [("0.weight",), ("3.0.weight", "3.0.bias")]


def elsewhere():
    """A state dict of other weights."""
    model = net()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return {name: t.clone() for name, t in model.state_dict().items()}


def gradient_at(model, values):
    return onsphere.curvature.hessian_operator(model, F.cross_entropy, batch(), values=values).gradient()


def losses(model, a, b):
    return onsphere.landscape.barrier(model, a, b, F.cross_entropy, batch(), points=3, path="chord").losses


# ---- tensors of a graph


class Keeping(nn.Module):
    """Keeps what it computed in one of many places, as auxiliary losses and attention maps are kept."""

    def __init__(self, keep):
        super().__init__()
        self.a, self.n, self.h = nn.Linear(8, 16), nn.LayerNorm(16, elementwise_affine=False), nn.Linear(16, 3)
        self.keep, self.kept = keep, None

    def forward(self, x):
        h = self.n(self.a(x))
        self.kept = self.keep(self.kept, h)
        return self.h(h)


@dataclass
class Holder:
    inner: object


KEEPING = {
    "attribute": lambda kept, h: h.mean(),
    "list": lambda kept, h: [*(kept or []), h.mean()],
    "dictionary of lists": lambda kept, h: {"a": {"b": [h, (h.mean(), 3)]}},
    "data class": lambda kept, h: Holder({"h": h}),
    "distribution": lambda kept, h: torch.distributions.Normal(h, h.exp()),
    "view": lambda kept, h: h[0].view(4, 4).T,
}


@pytest.mark.parametrize("way", KEEPING)
def test_modules_that_keep_tensors_of_a_graph(way):
    (x, y), model, fresh = batch(), Keeping(KEEPING[way]), Keeping(KEEPING[way])
    fresh.load_state_dict(model.state_dict())
    F.cross_entropy(model(x), y).backward()
    kept, gradient = model.kept, model.a.weight.grad.clone()
    assert onsphere.find_symmetries(model, x).groups == [("a.weight", "a.bias")]
    torch.testing.assert_close(gradient_at(model, None), gradient_at(fresh, None))
    assert losses(model, model, Keeping(KEEPING[way])).shape == (3,)
    assert model.kept is kept
    assert torch.equal(model.a.weight.grad, gradient)


class Stateful(Keeping):
    """Reads what the last pass left."""

    def forward(self, x):
        h = self.n(self.a(x))
        h = h if self.kept is None else h + self.kept
        self.kept = h.mean(0)
        return self.h(h)


def test_a_forward_pass_that_reads_the_last_graph_is_refused_by_name():
    model, (x, _) = Stateful(None), batch()
    model(x)
    says = "'?kept'? holds a tensor of the graph of an earlier forward pass.*Detach it or reset it"
    with pytest.raises(onsphere.SymmetryError, match=says):
        onsphere.find_symmetries(model, x)
    for measure in (lambda: gradient_at(model, None), lambda: losses(model, model, model)):
        with pytest.raises(ValueError, match=says):
            measure()


class Computed(nn.Module):
    """A weight made once, in the constructor: training it would fail as well."""

    def __init__(self):
        super().__init__()
        self.v, self.h = nn.Parameter(torch.randn(16, 8)), nn.Linear(16, 3)
        self.w = self.v / self.v.norm()

    def forward(self, x):
        return self.h(F.linear(x, self.w))


def test_a_weight_made_once_is_refused_by_name():
    with pytest.raises(onsphere.SymmetryError, match="w holds a tensor of the graph"):
        onsphere.find_symmetries(Computed(), batch()[0])


def weight_norm(module, name="weight"):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(module, name)


REPARAMETRISED = {
    "old weight norm": (lambda m: weight_norm(m[0]), "0.weight_v"),
    "weight norm": (lambda m: nn.utils.parametrizations.weight_norm(m[0]), "0.parametrizations.weight.original1"),
    "old spectral norm": (lambda m: nn.utils.spectral_norm(m[0]), "0.weight_orig"),
    "pruned": (lambda m: prune.l1_unstructured(m[0], "weight", 0.3), "0.weight_orig"),
}


@pytest.mark.parametrize("way", REPARAMETRISED)
def test_reparametrised_layers_before_and_after_a_forward_pass(way):
    (change, weight), x = REPARAMETRISED[way], batch()[0]
    model = net()
    change(model)
    first = onsphere.find_symmetries(model, x)
    model(x).sum().backward()
    again = onsphere.find_symmetries(model, x)
    assert (weight,) in first.groups
    assert (again.groups, again.dimension) == (first.groups, first.dimension)
    assert bool(gradient_at(model, None).isfinite().all())


# ---- sparse gradients


class ByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.h = nn.Parameter(torch.randn(11, 8)), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.h(F.layer_norm(F.embedding(tokens, self.w, padding_idx=0, sparse=True), (8,)))


def embedded(first, **options):
    return nn.Sequential(first(11, 8, **options), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3))


SPARSE = {
    "embedding": (lambda sparse: embedded(nn.Embedding, sparse=sparse), (32,), "0.weight"),
    "bag": (lambda sparse: embedded(nn.EmbeddingBag, sparse=sparse), (32, 4), "0.weight"),
    "tied": (lambda sparse: tied(sparse), (32,), "0.weight"),
    "function": (lambda sparse: ByFunction(), (32,), "w"),
}


def tied(sparse):
    model = nn.Sequential(
        nn.Embedding(11, 8, sparse=sparse), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 11, bias=False),
        nn.LayerNorm(11, elementwise_affine=False),
    )  # fmt: skip
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("way", SPARSE)
def test_sparse_gradients(way):
    make, shape, name = SPARSE[way]
    tokens, y = torch.randint(11, shape), batch()[1]
    model = make(True)
    assert (name,) in onsphere.find_symmetries(model, tokens).groups
    operator = onsphere.curvature.hessian_operator(model, F.cross_entropy, (tokens, y))
    F.cross_entropy(model(tokens), y).backward()
    dense = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters()]
    torch.testing.assert_close(operator.gradient(), torch.cat([g.flatten() for g in dense]).double())
    assert all(m.sparse for m in model.modules() if hasattr(m, "sparse"))


def test_a_padding_row_counts():
    """It is left out of the gradient and not out of the function."""
    model = embedded(nn.Embedding, padding_idx=0)
    with torch.no_grad():
        model[0].weight[0].normal_()
    assert ("0.weight",) in onsphere.find_symmetries(model, torch.arange(11)).groups
    assert model[0].padding_idx == 0


# ---- wrappers


class Inside(nn.Module):
    """A compiled part, called, indexed and asked for attributes."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = torch.compile(net()), nn.Linear(3, 3)

    def forward(self, x):
        assert len(self.inner) == 5
        return self.head(self.inner[0:5](x))


def nested():
    model = net()
    model[3] = torch.compile(model[3])
    return model


def twice():
    model = net()
    model[3][0] = torch.compile(model[3][0])
    model[3] = nn.DataParallel(model[3])
    return model


WRAPPED = {
    "compiled": (lambda: torch.compile(net()), "_orig_mod."),
    "compiled inside": (nested, ""),
    "in place": (lambda: _compiled_in_place(net()), ""),
    "data parallel": (lambda: nn.DataParallel(net()), "module."),
    "one in the other": (twice, ""),
    "compiled data parallel": (lambda: torch.compile(nn.DataParallel(net())), "_orig_mod.module."),
}


def _compiled_in_place(model):
    model.compile()
    return model


def _plain(name):
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


@pytest.mark.parametrize("way", WRAPPED)
def test_wrapped_models_are_what_they_wrap(way):
    model, values = WRAPPED[way][0](), elsewhere()
    found = onsphere.find_symmetries(model, batch()[0])
    names = [name for name, _ in model.named_parameters()]
    assert [tuple(map(_plain, group)) for group in found.groups] == GROUPS
    assert set(found.names) <= set(names)
    want = gradient_at(net(), values)
    torch.testing.assert_close(gradient_at(model, values), want)
    torch.testing.assert_close(gradient_at(net(), {f"module._orig_mod.{n}": t for n, t in values.items()}), want)
    assert losses(model, model, values) == pytest.approx(losses(net(), net(), values), rel=1e-6)
    assert losses(net(), model, values) == pytest.approx(losses(net(), net(), values), rel=1e-6)


def test_compiled_parts_that_are_indexed_and_asked():
    model, x = Inside(), batch()[0]
    assert ("inner._orig_mod.0.weight",) in onsphere.find_symmetries(model, x).groups


@pytest.mark.usefixtures("alone")
def test_distributed_models_with_buffers_after_a_step():
    model, values = nn.parallel.DistributedDataParallel(net()), elsewhere()
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    found = onsphere.find_symmetries(model, x)
    assert found.groups == [tuple(f"module.{name}" for name in group) for group in GROUPS]
    torch.testing.assert_close(gradient_at(model, values), gradient_at(net(), values))
    reference = net()
    reference.load_state_dict(model.module.state_dict())
    assert losses(model, model, values) == pytest.approx(losses(reference, reference, values), rel=1e-6)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("group", [False, True])
def test_synchronised_norms_run_on_a_cpu(group):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net(), dist.group.WORLD if group else None)
    with pytest.raises(ValueError, match="GPU"):
        model(batch()[0])
    assert onsphere.find_symmetries(model, batch()[0]).groups == GROUPS
    values = elsewhere()
    torch.testing.assert_close(gradient_at(model, values), gradient_at(net(), values))
    assert losses(model, model, values) == pytest.approx(losses(net(), net(), values), rel=1e-6)
    assert isinstance(model[1], nn.SyncBatchNorm)


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match=r"'5.weight', which the model does not have; it has 0.weight"):
        gradient_at(net(), {"5.weight": torch.ones(3)})


def test_tied_values_go_by_any_of_their_names():
    model, (tokens, y) = tied(False), (torch.randint(11, (32,)), batch()[1])
    new = torch.randn(11, 8)
    found = [
        onsphere.curvature.hessian_operator(model, F.cross_entropy, (tokens, y), values={name: new}).gradient()
        for name in ("0.weight", "2.weight")
    ]
    assert torch.equal(*found)


# ---- what no copy can stand for


class ByClosure(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = net()
        self.run = lambda x: self.a(x)

    def forward(self, x):
        return self.run(x)


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.lock = net(), threading.Lock()

    def forward(self, x):
        return self.a(x)


def scripted_inside():
    model = net()
    model[3] = torch.jit.script(model[3])
    return model


REFUSED = {
    "scripted": (lambda: torch.jit.script(net()), "the model is compiled to TorchScript.*give the module it was made"),
    "traced": (lambda: torch.jit.trace(net(), batch()[0]), "the model is compiled to TorchScript"),
    "scripted inside": (scripted_inside, "^3 is compiled to TorchScript"),
    "meta": (lambda: net().to("meta"), "holds no numbers: on the meta device lie 0.weight"),
    "closure": (ByClosure, "'run' of ByClosure is a function that holds modules"),
    "lock": (Locked, "cannot be copied .*lock"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", REFUSED)
def test_refusals_say_what_was_seen_and_what_to_do(way):
    make, says = REFUSED[way]
    model, (x, y) = make(), batch()
    for measure in (onsphere.find_symmetries, onsphere.sphere_groups):
        with pytest.raises(onsphere.SymmetryError, match=says):
            measure(model, x)
    with pytest.raises(ValueError, match=says):
        onsphere.curvature.top_eigenvalues(model, F.cross_entropy, (x, y))
    with pytest.raises(ValueError, match=says):
        onsphere.landscape.barrier(model, model, model, F.cross_entropy, (x, y), points=3)


# ---- copies themselves


def test_copies_are_apart_from_the_model():
    model = net()
    model.counts = torch.zeros(3)
    model[0].register_forward_hook(lambda *_: pytest.fail("the user's hook ran"))
    private, shared = private_copy(model), shared_copy(model, "train")
    for twin in (private, shared):
        twin(batch()[0])
        twin.counts.add_(1)
    assert float(model.counts.sum()) == 0
    assert [id(p) for p in shared.parameters()] == [id(p) for p in model.parameters()]
    assert not {p.data_ptr() for p in private.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert copy.deepcopy(private)(batch()[0]).shape == (32, 3)


class KeepsItsLoss(nn.Module):
    """A network that keeps a tensor of its last graph, and a hook that is part of it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        self.last = None
        self.body.register_forward_hook(_twice)

    def forward(self, x):
        out = self.body(x)
        self.last = out.square().mean()
        return out


def _twice(module, args, output):
    return 2 * output


@pytest.mark.parametrize("use", ["surgery", "ensemble", "permutations"])
def test_copies_to_be_used_take_graphs_and_keep_hooks(use):
    x, _ = batch()
    torch.manual_seed(0)
    model = KeepsItsLoss()
    model(x)
    held = model.last
    if use == "surgery":
        changed = onsphere.make_scale_invariant(model)
        torch.testing.assert_close(changed(x), 2 * changed.body[3](changed.body[:3](x)))
        assert changed.last.requires_grad
    elif use == "ensemble":
        model.eval()
        ensemble = onsphere.ensembles.Ensemble.from_members([model, model])
        torch.testing.assert_close(ensemble.member_logits(x), torch.stack([model(x)] * 2))
        held = model.last
    else:
        groups = onsphere.landscape.permutation_groups(model)
        assert [axis.name for axis in groups["body.0.weight"]][:1] == ["body.0.weight"]
    assert model.last is held


@pytest.mark.parametrize("use", ["surgery", "ensemble"])
def test_copies_to_be_used_are_not_made_of_functions_that_hold_the_original(use):
    model = net()
    model.head = lambda x: model[4](x)
    make = {
        "surgery": onsphere.make_scale_invariant,
        "ensemble": lambda m: onsphere.ensembles.Ensemble.from_members([m, m]),
    }[use]
    with pytest.raises(ValueError, match="'head' of Sequential is a function that holds modules"):
        make(model)
