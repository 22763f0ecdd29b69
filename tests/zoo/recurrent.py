"""Recurrent networks."""

from __future__ import annotations

import torch
from torch import nn

from zoo.entry import against, on_paper
from zoo.layers import floats, linear


class LayerNormLSTM(nn.Module):
    """Layer norms inside the cell; the state starts at zero, where a norm without eps has no derivative."""

    def __init__(self):
        super().__init__()
        self.inputs, self.state = linear(3, 16), linear(4, 16)
        self.norm_inputs, self.norm_state = nn.LayerNorm(16), nn.LayerNorm(16, elementwise_affine=False)
        self.norm_cell, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            gates = self.norm_inputs(self.inputs(step)) + self.norm_state(self.state(h))
            i, f, g, o = gates.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_cell(c))
        return self.head(h)


# Both matrices meet a norm at once; all the rest goes into sigmoids and tanh, and h to the head.
@on_paper(
    groups=[["inputs.weight"], ["state.weight"]],
    fixed=[
        "norm_inputs.weight",
        "norm_inputs.bias",
        "norm_cell.weight",
        "norm_cell.bias",
        "head.weight",
        "head.bias",
    ],
)
def layer_norm_lstm_cell():
    return LayerNormLSTM(), floats(5, 4, 3)


class NormedLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.norm, self.lstm = nn.Linear(3, 6), nn.LayerNorm(6), nn.LSTM(6, 4, batch_first=True)
        self.final, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.final(self.lstm(self.norm(self.project(x)))[0]))


# Norms around the cell: what goes in is normalised, its pair stands against the cell's input weight (not its biases).
@on_paper(
    groups=[["project.weight", "project.bias"]],
    rescalings=[
        against("norm.weight norm.bias", "lstm.weight_ih_l0"),
        against("final.weight final.bias", "head.weight"),
    ],
    fixed=["lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0", "head.bias"],
)
def lstm_between_layer_norms():
    return NormedLSTM(), floats(5, 4, 3)
