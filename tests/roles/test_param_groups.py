"""Hidden matrices to one optimiser, the rest to the other, decay on matrices alone."""

import pytest
import torch
import transformers
from torch import nn

from onsphere import param_groups

TOKENS = torch.randint(3, 37, (2, 7), generator=torch.Generator().manual_seed(0))


def gpt2():
    torch.manual_seed(0)
    sizes = {"vocab_size": 37, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def test_muon_and_adamw_train_a_gpt():
    model = gpt2()
    found = param_groups(model, TOKENS, muon={"lr": 0.02, "momentum": 0.9}, adamw={"lr": 3e-3}, decay=0.1)
    (matrices,) = found.muon
    assert [name.split(".")[-2] for name in matrices["names"]] == ["c_attn", "c_proj", "c_fc", "c_proj"]
    assert matrices["weight_decay"] == 0.1 and matrices["momentum"] == 0.9
    decayed, rest = found.adamw
    assert decayed["names"] == ["transformer.wte.weight", "transformer.wpe.weight"] and decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0 and all(p.dim() == 1 for p in rest["params"])
    assert repr(found).splitlines()[1:3] == [
        "  muon: 4 tensors (lr 0.02, momentum 0.9, weight_decay 0.1)",
        "    transformer.h.0.attn.c_attn.weight",
    ]
    every = [id(p) for groups in found for group in groups for p in group["params"]]
    assert sorted(every) == sorted(map(id, model.parameters()))
    optimizers = torch.optim.Muon(found.muon), torch.optim.AdamW(found.adamw)
    losses = []
    for _ in range(20):
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_filters_and_stacks_are_no_matrices_for_muon():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2))
    found = param_groups(model, torch.randn(3, 1, 4, 4))
    assert found.muon == [{"params": [model[2].weight], "names": ["2.weight"]}]
    assert found.adamw[0]["names"] == ["0.weight", "0.bias", "2.bias", "4.weight", "4.bias"]
    assert param_groups(nn.Linear(3, 2), torch.randn(2, 3)).muon == []


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.out = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(x * self.w + self.w)


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (Both, {}, "its role is unclear: put it into a group by hand"),
        (lambda: nn.Linear(3, 2), {"decay": -1.0}, "decay is -1.0"),
        (lambda: nn.Linear(3, 2), {"decay": 0.1, "adamw": {"weight_decay": 0.1}}, "beside decay="),
        (lambda: nn.Linear(3, 2), {"muon": {"params": []}}, "muon holds 'params'"),
    ],
)
def test_what_is_wrong_is_said(make, given, said):
    with pytest.raises(ValueError, match=said):
        param_groups(make(), torch.randn(2, 3), **given)
