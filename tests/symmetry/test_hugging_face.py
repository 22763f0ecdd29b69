"""Models of Hugging Face with random weights: the symmetries are those counted by hand from each architecture.

A count is a list of generators (name -> exponent). The search must find their span, no more and no less, with and
without gradient checkpointing, and the groups that follow.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import onsphere

transformers = pytest.importorskip("transformers")

VOCABULARY, WIDTH, LAYERS = 17, 8, 2
LANGUAGE = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 12, "head_dim": 4, "max_position_embeddings": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6}


def language_model(config):
    return transformers.AutoModelForCausalLM.from_config(config)


def gpt2():
    sizes = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 16}
    return language_model(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))


def gemma3():
    return language_model(transformers.Gemma3TextConfig(**LANGUAGE, query_pre_attn_scalar=4, sliding_window=8))


def vit():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 12}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    return transformers.ViTForImageClassification(config)


def convnext():
    sizes = {"hidden_sizes": [4, 6], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "image_size": 16}
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes, num_labels=3))


def wav2vec2():
    sizes = {"vocab_size": 5, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    convolutions = {"conv_dim": [6, 6], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "intermediate_size": 12}
    config = transformers.Wav2Vec2Config(**sizes, **convolutions, **positions, apply_spec_augment=False)
    return transformers.Wav2Vec2ForCTC(config)


# ---- the counts: a, b, ... written out by what feeds what


def scaled(*names, **exponents):
    """Names by their exponents: those given alone 1; ``{"x": -1}`` as a last argument for others."""
    *plain, last = names if isinstance(names[-1], dict) else (*names, {})
    return {**dict.fromkeys(plain, 1), **last, **exponents}


def against(these, those):
    """These by a, those by 1 / a."""
    return {**dict.fromkeys(these, 1), **dict.fromkeys(those, -1)}


def affine(name):
    return [f"{name}.weight", f"{name}.bias"]


def count_gpt2():
    # Tied head: the final norm's gain and bias undo the stream's scale, which is also that of the head. q, k and v are
    # one tensor, so that none can be rescaled alone; GELU lets nothing through.
    t = "transformer"
    stream = [f"{t}.wte.weight", f"{t}.wpe.weight"]
    found = []
    for i in range(LAYERS):
        h = f"{t}.h.{i}"
        stream += [*affine(f"{h}.attn.c_proj"), *affine(f"{h}.mlp.c_proj")]
        found += [against(affine(f"{h}.ln_1"), [f"{h}.attn.c_attn.weight"])]
        found += [against(affine(f"{h}.ln_2"), [f"{h}.mlp.c_fc.weight"])]
    return [*found, against(stream, affine(f"{t}.ln_f"))], []


def attention(layer, *, biased=()):
    """Value against output projection; with a bias both parts of the value count."""
    return against([f"{layer}.v_proj.weight", *biased], [f"{layer}.o_proj.weight"])


def count_llama():
    stream, found = ["model.embed_tokens.weight"], []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        a, m = f"{layer}.self_attn", f"{layer}.mlp"
        q, k, v = (f"{a}.{x}_proj.weight" for x in "qkv")
        gate, up, down = (f"{m}.{x}_proj.weight" for x in ("gate", "up", "down"))
        stream += [f"{a}.o_proj.weight", down]
        found += [against([q], [k]), attention(a), against([up], [down])]
        found += [against([q, k, v], [f"{layer}.input_layernorm.weight"])]
        found += [against([gate, up], [f"{layer}.post_attention_layernorm.weight"])]
    return [*found, against(["model.norm.weight"], ["lm_head.weight"]), dict.fromkeys(stream, 1)], [stream]


def normalised_heads(layer):
    """q and k before norms of their own: each invariant, and the norms' gains against one another."""
    a = f"{layer}.self_attn"
    return [[f"{a}.q_proj.weight"], [f"{a}.k_proj.weight"]], against([f"{a}.q_norm.weight"], [f"{a}.k_norm.weight"])


def count_qwen3(mixture=False):
    stream, found, groups = ["model.embed_tokens.weight"], [], []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        a, m = f"{layer}.self_attn", f"{layer}.mlp"
        alone, gains = normalised_heads(layer)
        groups += alone
        # the norm ahead of attention reaches q and k, which do not care, and v
        found += [gains, attention(a), against([f"{a}.v_proj.weight"], [f"{layer}.input_layernorm.weight"])]
        after = [f"{layer}.post_attention_layernorm.weight"]
        if mixture:  # gate and up are one tensor: only the norm and the router know its scale
            found += [against([f"{m}.experts.gate_up_proj", f"{m}.gate.weight"], after)]
            down = f"{m}.experts.down_proj"
        else:
            gate, up, down = (f"{m}.{x}_proj.weight" for x in ("gate", "up", "down"))
            found += [against([up], [down]), against([gate, up], after)]
        stream += [f"{a}.o_proj.weight", down]
    found += [against(["model.norm.weight"], ["lm_head.weight"])]
    return [*found, *(dict.fromkeys(g, 1) for g in [*groups, stream])], [*groups, stream]


def count_behind_norms(gains):
    """OLMo2 and Gemma3 have a norm after every branch: v, o, up and down are invariant by themselves.

    With plain gains (OLMo2) the stream as a whole can be rescaled: embedding and all gains that write it by a, and by
    1 / a what reads it ahead of a function that is not homogeneous. Gemma's gains are 1 + w, which have no scale.
    """
    groups, found = [], []
    written, reading = ["model.embed_tokens.weight"], []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        alone, between = normalised_heads(layer)
        branches = [f"{layer}.self_attn.v_proj", f"{layer}.self_attn.o_proj", f"{layer}.mlp.up_proj"]
        groups += [*alone, *([f"{name}.weight"] for name in [*branches, f"{layer}.mlp.down_proj"])]
        if gains:
            found += [between]
            written += [f"{layer}.post_attention_layernorm.weight", f"{layer}.post_feedforward_layernorm.weight"]
            reading += [f"{layer}.mlp.gate_proj.weight"]
    if gains:
        found += [against(written, reading), against(["model.norm.weight"], ["lm_head.weight"])]
    return [*found, *(dict.fromkeys(g, 1) for g in groups)], groups


def query_and_key(a):
    """Of biased q and k: the key's bias adds the same number to every score of a query, and has no effect."""
    return [against(affine(f"{a}.q_proj"), [f"{a}.k_proj.weight"]), {f"{a}.k_proj.bias": 1}]


def count_vit():
    e = "vit.embeddings"
    stream = [f"{e}.cls_token", f"{e}.position_embeddings", *affine(f"{e}.patch_embeddings.projection")]
    found = []
    for i in range(LAYERS):
        layer = f"vit.layers.{i}"
        a = f"{layer}.attention"
        # on the sphere the larger of v (with its bias) and o
        stream += [*affine(f"{a}.v_proj"), f"{a}.o_proj.bias", *affine(f"{layer}.mlp.fc2")]
        found += [*query_and_key(a), attention(a, biased=[f"{a}.v_proj.bias"])]
        inside = [f"{a}.{x}_proj.weight" for x in "qkv"]
        found += [against(inside, affine(f"{layer}.layernorm_before"))]
        found += [against(affine(f"{layer}.layernorm_after"), [f"{layer}.mlp.fc1.weight"])]
    found += [against(affine("vit.layernorm"), ["classifier.weight"])]
    return [*found, dict.fromkeys(stream, 1)], [stream]


def count_convnext():
    e, s = "convnext.embeddings", "convnext.encoder.stages"
    patches, groups, found = affine(f"{e}.patch_embeddings"), [], []
    below = affine(f"{s}.1.downsampling_layer.0")
    found += [against(below, [f"{s}.1.downsampling_layer.1.weight"])]
    for stage, writes in enumerate((affine(f"{e}.layernorm"), affine(f"{s}.1.downsampling_layer.1"))):
        block = f"{s}.{stage}.layers.0"
        groups += [affine(f"{block}.dwconv")]
        scale = f"{block}.layer_scale_parameter"
        found += [against(affine(f"{block}.layernorm"), [f"{block}.pwconv1.weight"])]
        found += [against(affine(f"{block}.pwconv2"), [scale])]
        # the stage's stream, normalised at its end; the depthwise bias keeps up with what its convolution reads
        found += [dict.fromkeys([*writes, scale, f"{block}.dwconv.bias"], 1)]
    found += [against(affine("convnext.layernorm"), ["classifier.weight"])]
    groups = [patches, *groups]
    return [*found, *(dict.fromkeys(g, 1) for g in groups)], groups


def count_wav2vec2():
    w = "wav2vec2"
    first = f"{w}.feature_extractor.conv_layers.0.conv.weight"  # ahead of a group norm
    direction = f"{w}.encoder.pos_conv_embed.conv.parametrizations.weight.original1"  # of a weight norm
    found = [{first: 1}, {direction: 1}, {f"{w}.masked_spec_embed": 1}]
    projection = f"{w}.feature_projection"
    found += [against(affine(f"{projection}.layer_norm"), [f"{projection}.projection.weight"])]
    before = f"{w}.encoder.layer_norm"
    for i in range(LAYERS):
        layer = f"{w}.encoder.layers.{i}"
        a, f = f"{layer}.attention", f"{layer}.feed_forward"
        found += [*query_and_key(a)]
        found += [against(affine(f"{a}.v_proj"), [f"{a}.out_proj.weight"])]
        # norms stand between the branches: each gain with what reads it, up to the next norm
        attended = [*affine(before), f"{a}.v_proj.bias", f"{a}.out_proj.bias"]
        found += [against(attended, [f"{a}.q_proj.weight", f"{a}.k_proj.weight"])]
        fed = [*affine(f"{layer}.layer_norm"), *affine(f"{f}.output_dense")]
        found += [against(fed, [f"{f}.intermediate_dense.weight"])]
        before = f"{layer}.final_layer_norm"
    return [*found, against(affine(before), ["lm_head.weight"])], [[first], [direction]]


MODELS = {
    "GPT-2": (gpt2, count_gpt2, 2 * LAYERS + 1),
    "Llama": (lambda: language_model(transformers.LlamaConfig(**LANGUAGE)), count_llama, 5 * LAYERS + 2),
    "Qwen3": (lambda: language_model(transformers.Qwen3Config(**LANGUAGE)), count_qwen3, 7 * LAYERS + 2),
    "OLMo2": (
        lambda: language_model(transformers.Olmo2Config(**LANGUAGE)),
        lambda: count_behind_norms(True),
        7 * LAYERS + 2,
    ),
    "Gemma3": (gemma3, lambda: count_behind_norms(False), 6 * LAYERS),
    "Qwen3-MoE": (
        lambda: language_model(transformers.Qwen3MoeConfig(**LANGUAGE, **EXPERTS)),
        lambda: count_qwen3(True),
        6 * LAYERS + 2,
    ),
    "ViT": (vit, count_vit, 5 * LAYERS + 2),
    "ConvNeXt": (convnext, count_convnext, 11),
    "Wav2Vec2": (wav2vec2, count_wav2vec2, 5 * LAYERS + 5),
}


def batch(model):
    name = model.main_input_name
    if name == "input_ids":
        # every token, the padding one too: its embedding has no gradient, and is part of the function
        return {name: torch.arange(12).view(2, 6)}
    side = getattr(model.config, "image_size", None)
    return {name: torch.randn(4, 3, side, side) if side else torch.randn(2, 200)}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["off", "plain", "reentrant"])
@pytest.mark.parametrize("name", MODELS)
def test_symmetries_are_those_counted_by_hand(name, checkpointing):
    make, count, dimension = MODELS[name]
    torch.manual_seed(0)
    model = make().train()
    if checkpointing is not None:
        if not model.supports_gradient_checkpointing:
            pytest.skip("has no checkpointing")
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    found = onsphere.find_symmetries(model, unused="ignore", **batch(model))
    generators, groups = count()
    places = {name: i for i, name in enumerate(found.names)}
    mine = np.zeros((len(generators), len(places)))
    for row, exponents in zip(mine, generators, strict=True):
        for tensor, exponent in exponents.items():
            row[places[tensor]] = exponent
    assert np.linalg.matrix_rank(mine) == len(generators) == dimension
    assert found.dimension == dimension
    assert np.linalg.matrix_rank(np.concatenate([mine, found.generators]), tol=1e-6) == dimension
    assert set(found.without_effect) == {n for n in places if n.endswith(("k_proj.bias", "masked_spec_embed"))}
    assert sorted(map(sorted, found.groups)) == sorted(map(sorted, groups))


def gpt_oss():
    config = transformers.GptOssConfig(
        **LANGUAGE, num_local_experts=3, num_experts_per_tok=2, layer_types=["full_attention"] * LAYERS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    return language_model(config)


def count_gpt_oss():
    stream, found = ["model.embed_tokens.weight"], []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        a, m = f"{layer}.self_attn", f"{layer}.mlp"
        stream += [*affine(f"{a}.o_proj"), f"{m}.experts.down_proj", f"{m}.experts.down_proj_bias"]
        found += [against(affine(f"{a}.q_proj"), affine(f"{a}.k_proj"))]  # a sink beside the scores: both biases count
        found += [against(affine(f"{a}.v_proj"), [f"{a}.o_proj.weight"])]
        inside = [f"{a}.{x}_proj.weight" for x in "qkv"]
        found += [against(inside, [f"{layer}.input_layernorm.weight"])]
        reading = [f"{m}.experts.gate_up_proj", f"{m}.router.weight"]
        found += [against(reading, [f"{layer}.post_attention_layernorm.weight"])]
    found += [against(["model.norm.weight"], ["lm_head.weight"])]
    return [*found, dict.fromkeys(stream, 1)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["Qwen3-MoE", "GPT-OSS"])
def test_experts_by_grouped_kernels(name):
    """The grouped kernel takes no float64: the copy has the eager experts, and the model keeps its own."""
    torch.manual_seed(0)
    model = gpt_oss() if name == "GPT-OSS" else MODELS[name][0]()
    assert model.config._experts_implementation == "grouped_mm"
    inputs = batch(model)
    found = onsphere.find_symmetries(model, **inputs)
    generators = count_gpt_oss() if name == "GPT-OSS" else count_qwen3(True)[0]
    assert found.dimension == len(generators)
    labels = torch.arange(12)
    inputs["input_ids"] = inputs["input_ids"] + 1  # a padding row has no gradient, and differences would move it

    def loss(output, target):
        return F.cross_entropy(output.logits.flatten(0, 1), target)

    functional = onsphere.curvature.Functional(model.double(), loss, (inputs, labels))
    operators = [  # short steps, which no token's choice of experts turns at
        onsphere.curvature.HessianOperator(functional, kind=kind, step=1e-4)
        for kind in ("hessian", "finite-difference")
    ]
    v = torch.randn(operators[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact, differences = (operator @ v for operator in operators)
    assert float((exact - differences).norm()) < 1e-2 * float(exact.norm())
    assert model.config._experts_implementation == "grouped_mm"


def test_a_cache_is_no_output():
    """A model that gives back its keys and values has the symmetries that it has without them, and says so."""
    model, tokens = language_model(transformers.LlamaConfig(**LANGUAGE)), torch.arange(12).view(2, 6)
    with_cache, without = (
        onsphere.find_symmetries(model, tokens, use_cache=use, unused="ignore") for use in (True, False)
    )
    assert with_cache.dimension == without.dimension
    assert any("cache" in note for note in with_cache.notes) and not any("cache" in note for note in without.notes)
    as_tuple = onsphere.find_symmetries(model, tokens, use_cache=True, return_dict=False, unused="ignore")
    assert as_tuple.dimension == without.dimension
