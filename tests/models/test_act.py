"""Tests of the network and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imitact.core.camera_view import View
from imitact.core.errors import BadInput
from imitact.core.types import Camera, Spec
from imitact.models.act import MAX_IMAGE_TOKENS, Act
from imitact.models.config import MODEL_PRESETS, ActConfig
from imitact.models.transformer import Attention, Encoder, initialize_layers, sine_grid, sine_table

TINY = ActConfig(
    chunk_size=6,
    backbone_width=16,
    backbone_stages=2,
    backbone_norm="batch",
    hidden_dim=16,
    num_heads=2,
    dim_feedforward=24,
    encoder_layers=2,
    vae_encoder_layers=2,
    latent_dim=4,
    dropout=0.0,
)
STATE, ACTION = 3, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(
    config: ActConfig = TINY,
    sizes: tuple[tuple[int, int], ...] = ((16, 24),),
    seed: int = 0,
    state: int = STATE,
    action: int = ACTION,
    environment: int = 0,
) -> Act:
    return Act(
        config,
        state_size=state,
        action_size=action,
        environment_size=environment,
        image_sizes=sizes,
        generator=seeded(seed),
    ).eval()


def sample(net: Act, sizes: tuple[tuple[int, int], ...] = ((16, 24),), batch: int = 3) -> Any:
    draw = seeded(11)
    state_size = net.joints + (
        net.environment_proj.in_features if hasattr(net, "environment_proj") else 0
    )
    action_size = ACTION
    is_pad = torch.zeros(batch, net.config.chunk_size, dtype=torch.bool)
    is_pad[-1, 2:] = True
    return (
        torch.randn(batch, state_size, generator=draw),
        [torch.randn(batch, 3, *size, generator=draw) for size in sizes],
        torch.randn(batch, net.config.chunk_size, action_size, generator=draw),
        is_pad,
        torch.randn(batch, net.config.latent_dim, generator=draw),
    )


def loss(net: Act, state: Tensor, images: list[Tensor], *rest: Tensor) -> Tensor:
    action, is_pad, noise = rest
    return net.losses(net(state, images, action, is_pad, noise), action, is_pad).total


# -- sizes -------------------------------------------------------------------------------------


def parameters(config: ActConfig) -> int:
    net = Act(config, state_size=14, action_size=14, image_sizes=[(480, 640)], generator=None)
    return sum(p.numel() for p in net.parameters())


def test_the_released_model_has_exactly_51613582_parameters() -> None:
    assert MODEL_PRESETS["released"].chunk_size == 100
    assert parameters(MODEL_PRESETS["released"]) == 51_613_582


def test_without_the_cvae_the_released_model_has_34232142_parameters() -> None:
    assert parameters(replace(MODEL_PRESETS["released"], use_vae=False)) == 34_232_142


def test_the_paper_preset_uses_seven_decoder_layers() -> None:
    # Compared with the released one: six more layers, fixed queries, a hidden layer in the head.
    more = 6 * 5_384_832 - 100 * 512 + (512 * 512 + 512)
    assert parameters(MODEL_PRESETS["paper"]) == 51_613_582 + more


@pytest.mark.parametrize("queries", ["learned", "sinusoidal"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("cvae", [True, False])
@pytest.mark.parametrize(
    ("state", "action", "sizes"),
    [
        (1, 1, ()),
        (3, 5, ((17, 31),)),
        (14, 14, ((16, 24), (33, 20), (16, 24), (8, 8))),
    ],
)
def test_input_and_output_sizes_follow_the_data(
    queries: Any, head: Any, cvae: bool, state: int, action: int, sizes: Any
) -> None:
    config = replace(TINY, queries=queries, head=head, use_vae=cvae)
    net = network(config, sizes, state=state, action=action)
    images = [torch.zeros(2, 3, *size) for size in sizes]
    actions = torch.zeros(2, config.chunk_size, action)
    answer = net(torch.zeros(2, state), images, actions)
    assert answer.action.shape == (2, config.chunk_size, action)
    if cvae:
        assert answer.mean.shape == answer.logvar.shape == (2, config.latent_dim)
    else:
        assert answer.mean is None
        assert answer.logvar is None


CAMERAS = (Camera("a", 480, 640), Camera("b", 240, 424))
SEES = Spec(("x",), ("x",), ("rad",), ("rad",), CAMERAS, 50)


def test_frames_are_kept_whole_and_at_capture_size_by_default() -> None:
    assert TINY.views(SEES) == {"a": View(480, 640), "b": View(240, 424)}
    small = replace(TINY, input_height=120, input_width=160)
    assert small.views(SEES) == {"a": View(120, 160), "b": View(120, 160)}
    cropped = replace(TINY, crop="b=0:240,24:424; a=165:405,180:500")
    window = (165, 405, 180, 500)
    assert cropped.views(SEES) == {
        "a": View(240, 320, window),
        "b": View(240, 400, (0, 240, 24, 424)),
    }
    both = replace(small, crop="a=165:405,180:500")
    assert both.views(SEES) == {"a": View(120, 160, window), "b": View(120, 160)}


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ("c=0:9,0:9", 'names camera "c"; the cameras are a, b'),
        ("b=0:241,0:9", 'exceeds the 240x424 pixels that camera "b" captures'),
        ("b=0:9,0:425", "exceeds the 240x424"),
    ],
)
def test_a_crop_that_fits_no_camera_is_refused(crop: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(TINY, crop=crop).views(SEES)


# -- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("l1", ["valid", "all"])
@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_padding_cannot_change_the_loss(l1: Any, garbage: float) -> None:
    net = network(replace(TINY, l1_ticks=l1)).train()
    state, images, action, is_pad, noise = sample(net)
    results = []
    for value in (0.0, garbage):
        net.zero_grad()
        padded = action.masked_fill(is_pad[..., None], value)
        total = loss(net, state, images, padded, is_pad, noise)
        total.backward()
        results.append((total.detach(), {n: p.grad for n, p in net.named_parameters()}))
    (clean, gradients), (dirty, dirty_gradients) = results
    assert torch.equal(clean, dirty)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, dirty_gradients[name]), name


def test_the_l1_error_is_averaged_over_valid_ticks_or_over_all() -> None:
    action = torch.zeros(2, 6, ACTION)
    is_pad = torch.zeros(2, 6, dtype=torch.bool)
    is_pad[1, 3:] = True  # 9 of 12 ticks are valid
    for l1, expected in (("valid", 1.0), ("all", 9 / 12)):
        net = network(replace(TINY, l1_ticks=l1, use_vae=False))
        prediction = net(torch.zeros(2, STATE), [torch.zeros(2, 3, 16, 24)])
        prediction = prediction._replace(action=torch.ones(2, 6, ACTION))
        losses = net.losses(prediction, action, is_pad)
        assert losses.l1.item() == pytest.approx(expected)
        assert losses.kl.item() == 0
        assert losses.total.item() == pytest.approx(expected)


def test_a_batch_of_padding_only_has_zero_loss() -> None:
    net = network(replace(TINY, use_vae=False))
    state, images, action, is_pad, noise = sample(net)
    assert loss(net, state, images, action, torch.ones_like(is_pad), noise).item() == 0


def test_the_kl_term_equals_torchs_for_normal_distributions() -> None:
    net = network(replace(TINY, kl_weight=3.0))
    state, images, action, is_pad, noise = sample(net)
    answer = net(state, images, action, is_pad, noise)
    posterior = torch.distributions.Normal(answer.mean, (answer.logvar / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()
    losses = net.losses(answer, action, is_pad)
    assert torch.allclose(losses.kl, expected, rtol=1e-5)
    assert torch.allclose(losses.total, losses.l1 + 3 * losses.kl)


def test_permuting_a_batch_permutes_its_predictions() -> None:
    net = network()
    state, images, action, is_pad, noise = sample(net)
    order = torch.tensor([2, 0, 1])
    straight = net(state, images, action, is_pad, noise)
    turned = net(
        state[order], [i[order] for i in images], action[order], is_pad[order], noise[order]
    )
    for a, b in zip(straight, turned, strict=True):
        assert torch.allclose(a[order], b, rtol=1e-4, atol=1e-5)
    before = net.losses(straight, action, is_pad)
    after = net.losses(turned, action[order], is_pad[order])
    assert torch.allclose(before.total, after.total, rtol=1e-5)


# -- the latent --------------------------------------------------------------------------------


def test_without_actions_z_is_zero() -> None:
    net = network()
    state, images, action, is_pad, _ = sample(net)
    answer = net(state, images)
    head = net.cvae.latent_head
    with torch.no_grad():  # a posterior of mean 0 and variance 1, and no noise: z = 0
        head.weight.zero_()
        head.bias.zero_()
    without_noise = net(state, images, action, is_pad, torch.zeros(3, TINY.latent_dim))
    assert torch.equal(answer.action, without_noise.action)
    assert answer.mean is None
    with_noise = net(state, images, action, is_pad, torch.ones(3, TINY.latent_dim))
    assert not torch.allclose(answer.action, with_noise.action)


def test_padding_does_not_change_the_posterior_of_a_chunk() -> None:
    net = network()
    state, _, action, is_pad, _ = sample(net)
    is_pad[:, 2:] = True
    padded = net.cvae(state, action, is_pad)
    net.cvae.pos = net.cvae.pos[: 2 + 2]
    short = net.cvae(state, action[:, :2], is_pad[:, :2])
    for a, b in zip(padded, short, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_z_is_the_mean_plus_noise_times_the_standard_deviation() -> None:
    net = network()
    state, images, action, is_pad, noise = sample(net)
    seen: list[Tensor] = []
    net.latent_proj.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    answer = net(state, images, action, is_pad, noise)
    variance = answer.logvar.exp()
    assert torch.allclose(seen[0], answer.mean + variance.sqrt() * noise, rtol=1e-5, atol=1e-6)


def test_given_noise_replaces_the_random_draw() -> None:
    net = network()
    state, images, action, is_pad, _ = sample(net)
    torch.manual_seed(5)
    drawn = net(state, images, action, is_pad)
    torch.manual_seed(5)
    noise = torch.randn(3, TINY.latent_dim)
    before = torch.random.get_rng_state()
    given_noise = net(state, images, action, is_pad, noise)
    assert torch.equal(drawn.action, given_noise.action)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_disabling_the_cvae_keeps_all_other_initial_weights() -> None:
    with_cvae, without = network().state_dict(), network(replace(TINY, use_vae=False)).state_dict()
    assert without.keys() == {n for n in with_cvae if not n.startswith("cvae.")}
    assert all(torch.equal(v, with_cvae[n]) for n, v in without.items())


# -- the decoder -------------------------------------------------------------------------------


def test_every_weight_has_a_gradient_except_where_queries_are_still_zero() -> None:
    net = network(replace(TINY, decoder_layers=3, head="mlp")).train()
    loss(net, *sample(net)).backward()
    still = {n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())}
    # The first decoder layer attends to zero vectors, and biases are zero at first, so the inputs
    # of these three are zero in the first step.
    first = "decoder.layers.0."
    zero = {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight"}
    assert still <= {first + name for name in zero}


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_the_last_decoder_layer_is_the_output(layers: int) -> None:
    net = network(replace(TINY, decoder_layers=layers))
    assert len(net.decoder.layers) == layers
    state, images, *_ = sample(net)
    last = net.decoder.layers[-1]
    with torch.no_grad():
        # The output of the last layer is now constant, whatever the layers before it computed.
        last.norm3.weight.zero_()
        last.norm3.bias.copy_(torch.arange(16.0))
        expected = net.head(net.decoder.norm(last.norm3.bias))
    assert torch.allclose(net(state, images).action, expected.expand(3, 6, ACTION), atol=1e-6)


def test_one_decoder_layer_equals_the_first_layer_of_the_released_model() -> None:
    deep = network(replace(TINY, decoder_layers=3))
    shallow = network(replace(TINY, decoder_layers=1))
    own = shallow.state_dict()
    shallow.load_state_dict({n: v for n, v in deep.state_dict().items() if n in own})
    state, images, *_ = sample(deep)
    assert not torch.allclose(deep(state, images).action, shallow(state, images).action)
    del deep.decoder.layers[1:]
    assert torch.equal(deep(state, images).action, shallow(state, images).action)


def test_sinusoidal_queries_are_the_papers_table_and_not_learned() -> None:
    net = network(replace(TINY, queries="sinusoidal"))
    assert torch.equal(net.sine_queries, sine_table(6, 16))
    assert not any("queries" in n for n in net.state_dict())


# -- the transformer ---------------------------------------------------------------------------


def test_attention_equals_torchs_multi_head_attention() -> None:
    ours, theirs = Attention(12, 3, 0.0), nn.MultiheadAttention(12, 3, batch_first=True)
    initialize_layers(ours, seeded(), xavier=False)
    with torch.no_grad():
        ours.in_proj_bias.normal_(generator=seeded(1))
        ours.out_proj.bias.normal_(generator=seeded(2))
    theirs.load_state_dict(ours.state_dict())
    draw = seeded(3)
    query = torch.randn(2, 5, 12, generator=draw)
    key = torch.randn(2, 7, 12, generator=draw)
    value = torch.randn(2, 7, 12, generator=draw)
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[1, 4:] = False
    for q, k, v, mask in ((query, key, value, keep), (key, key, value, None)):
        expected, _ = theirs(
            q, k, v, key_padding_mask=None if mask is None else ~mask, need_weights=False
        )
        assert torch.allclose(ours(q, k, v, mask), expected, rtol=1e-5, atol=1e-6)


def test_computing_the_first_tokens_only_gives_the_same_tokens() -> None:
    encoder = Encoder(3, 16, 2, 24, 0.0)
    initialize_layers(encoder, seeded(), xavier=False)
    x = torch.randn(2, 9, 16, generator=seeded(1))
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[0, 5:] = False
    pos = sine_table(9, 16)
    whole = encoder(x, pos, keep)
    assert encoder(x, pos, keep, first=2).shape == (2, 2, 16)
    assert torch.allclose(encoder(x, pos, keep, first=2), whole[:, :2], rtol=1e-5, atol=1e-6)


def test_the_sine_table_is_that_of_vaswani_et_al() -> None:
    table = sine_table(50, 8)
    for position in (0, 1, 49):
        for i in range(4):
            angle = torch.tensor(position / 10000 ** (2 * i / 8), dtype=torch.float64)
            assert table[position, 2 * i].item() == pytest.approx(angle.sin().item(), abs=1e-7)
            assert table[position, 2 * i + 1].item() == pytest.approx(angle.cos().item(), abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_every_cell_of_the_image_grid_has_a_distinct_position(rows: int, columns: int) -> None:
    table = sine_grid(rows, columns, 32)
    assert table.shape == (rows * columns, 32)
    apart = torch.cdist(table, table) + 10 * torch.eye(len(table))
    assert float(apart.min()) > 1e-3
    # The first half encodes the row only, the second half the column only.
    grid = table.view(rows, columns, 32)
    assert torch.equal(grid[:, 0, :16], grid[:, -1, :16])
    assert torch.equal(grid[0, :, 16:], grid[-1, :, 16:])


# -- cameras -----------------------------------------------------------------------------------


def test_cameras_of_one_size_share_a_batch_and_keep_their_order() -> None:
    sizes = ((16, 24), (24, 16), (16, 24))
    net = network(sizes=sizes)
    _, images, *_ = sample(net, sizes)
    seen: list[int] = []
    net.backbone.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[0]))
    together = net._image_tokens(images)
    assert seen == [6, 3]
    for image, tokens in zip(images, together, strict=True):
        alone = net.image_proj(net.backbone(image).permute(0, 2, 3, 1).flatten(1, 2))
        assert torch.allclose(tokens, alone, rtol=1e-4, atol=1e-5)


def test_cameras_of_one_size_are_distinguished_by_their_content_only() -> None:
    # As published: the tokens of every camera have the same positions and no camera embedding.
    sizes = ((16, 24), (24, 16), (16, 24))
    net = network(sizes=sizes)
    state, images, *_ = sample(net, sizes)
    answer = net(state, images).action
    swapped = net(state, [images[2], images[1], images[0]]).action
    assert torch.allclose(answer, swapped, rtol=1e-4, atol=1e-5)
    other = net(state, [images[0], images[1], images[0]]).action
    assert not torch.allclose(answer, other, rtol=1e-4, atol=1e-5)


# -- construction ------------------------------------------------------------------------------


def random_in_training_only(net: Act) -> Tensor:
    """Return the prediction in training after seed 0; check that it is random in training only."""
    state, images, *_ = sample(net)
    assert torch.equal(net(state, images).action, net(state, images).action)
    net.train()
    net.backbone.eval()
    torch.manual_seed(0)
    answer = net(state, images).action
    assert not torch.equal(answer, net(state, images).action)
    return answer


def test_state_noise_applies_in_training_only() -> None:
    net = network(replace(TINY, state_noise=0.5))
    noisy = random_in_training_only(net)
    state, images, *_ = sample(net)
    torch.manual_seed(0)
    expected = state + 0.5 * torch.randn_like(state)
    assert torch.equal(noisy, network()(expected, images).action)


def test_building_a_network_does_not_change_torchs_global_random_state() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (network(seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, same[n]) for n, v in first.items())
    weights = [n for n, v in first.items() if v.dim() > 1]
    assert all(not torch.equal(first[n], other[n]) for n in weights)


def test_initial_weights_are_distributed_as_in_the_released_code() -> None:
    net = network(replace(TINY, hidden_dim=64, dim_feedforward=256, backbone_width=64))
    xavier = (6 / (64 + 256)) ** 0.5
    weights = net.state_dict()
    first = weights["encoder.layers.0.linear1.weight"].abs().max().item()
    assert 0.95 * xavier < first <= xavier
    plain = weights["cvae.encoder.layers.0.linear1.weight"].abs().max().item()
    assert 0.95 / 8 < plain <= 1 / 8  # torch's default: 1 / sqrt(64)
    assert weights["queries"].std().item() == pytest.approx(1, abs=0.15)
    conv = weights["backbone.layer1.0.conv1.weight"].std().item()
    assert conv == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    for name, value in net.named_parameters():
        if name.endswith(("in_proj_bias", "out_proj.bias")):
            assert not bool(value.any()), name
        if "norm" in name or ".bn" in name:
            assert bool((value == (1 if name.endswith("weight") else 0)).all()), name


def test_a_network_without_weights_adopts_saved_ones() -> None:
    net = network()
    empty = Act(TINY, state_size=STATE, action_size=ACTION, image_sizes=[(16, 24)], generator=None)
    assert all(p.is_meta for p in empty.parameters())
    empty.adopt({n: v.clone() for n, v in net.state_dict().items()})
    state, images, *_ = sample(net)
    assert torch.equal(empty.eval()(state, images).action, net(state, images).action)


def test_dropout_applies_in_training_only() -> None:
    random_in_training_only(network(replace(TINY, dropout=0.5)))


def test_under_bfloat16_autocast_the_loss_stays_close_and_float32() -> None:
    net = network()
    inputs = sample(net)
    plain = loss(net, *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss(net, *inputs)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(plain.item(), rel=0.1)


def test_under_bfloat16_autocast_actions_keep_more_than_8_binary_digits() -> None:
    net = network()
    state, images, *_ = sample(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        action = net.eval()(state, images).action
    assert action.dtype == torch.float32
    assert not torch.equal(action, action.bfloat16().float())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0; it must be from 1 to"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0"),
        ({"state_noise": -0.1}, "state_noise is -0.1; it must be from 0 to"),
        ({"state_noise": float("nan")}, "state_noise is nan"),
        ({"random_crop": 1.0}, "random_crop is 1.0; it must be at least 0 and below 1"),
        ({"color_jitter": -0.1}, "color_jitter is -0.1; it must be at least 0 and below 1"),
        ({"crop": "top"}, 'crop "top" is not of the form CAMERA=TOP:BOTTOM,LEFT:RIGHT'),
        ({"crop": "a=1:2"}, "is not of the form"),
        ({"crop": "a=-1:2,0:1"}, "is not of the form"),
        ({"crop": "a=5:5,0:1"}, "rows 5 to 5 and columns 0 to 1 holds no pixel"),
        ({"crop": "a=0:5,3:2"}, "holds no pixel"),
        ({"crop": "a=0:5,0:2;a=0:5,0:2"}, 'names camera "a" twice'),
        ({"random_shift": -1}, "random_shift is -1; it must be from 0 to"),
        ({"shift_as_input": True}, "shift_as_input is set and random_shift is 0"),
        ({"kl_weight": float("inf")}, "kl_weight is inf"),
        ({"hidden_dim": 6, "num_heads": 2}, "multiple of 4"),
        ({"hidden_dim": 16, "num_heads": 3}, "hidden_dim is 16 and num_heads 3"),
        ({"input_height": 120}, "input_height is 120 and input_width 0 pixels; give both"),
        (
            {"backbone_norm": "layer"},
            'backbone_norm is "layer"; it must be one of frozen, batch, group',
        ),
        ({"queries": "random"}, 'queries is "random"; it must be one of'),
        ({"use_vae": 1}, "use_vae is 1; it must be of type bool"),
        ({"chunk_size": True}, "chunk_size is True; it must be of type int"),
        ({"chunk_size": 1.5}, "chunk_size is 1.5; it must be of type int"),
        ({"backbone_norm": "group", "backbone_width": 24}, "multiple of 16; it is 24"),
    ],
)
def test_invalid_settings_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ActConfig(**settings_)


def test_settings_keep_their_keys_in_files() -> None:
    written = TINY.to_json()
    assert list(written) == [
        "chunk", "input_height", "input_width", "crop", "width", "stages", "norm", "pretrained",
        "dim", "heads", "ffn", "encoder_layers", "decoder_layers", "queries", "head", "positions",
        "actions", "l1", "cvae", "cvae_layers", "latent", "kl_weight", "shift", "shift_told",
        "random_crop", "color_jitter", "state_noise", "dropout",
    ]  # fmt: skip
    assert (written["chunk"], written["dim"], written["cvae_layers"]) == (6, 16, 2)
    assert ActConfig.from_json(written) == TINY
    with pytest.raises(BadInput, match='unknown setting "hidden_dim"'):
        ActConfig.from_json({"hidden_dim": 16})


def test_frames_of_absurd_size_are_refused_before_memory_is_allocated() -> None:
    with pytest.raises(BadInput, match=rf"at most {MAX_IMAGE_TOKENS} are sensible"):
        network(sizes=((10**9, 10**9),))


def test_a_shift_as_large_as_the_frame_is_refused() -> None:
    with pytest.raises(
        BadInput, match="random_shift is 16, which moves frames of 16x24 pixels out"
    ):
        network(replace(TINY, random_shift=16))


# -- states of the environment -----------------------------------------------------------------


def test_environment_states_add_one_token_and_nothing_else() -> None:
    """LeRobot's ACT: a projection and a row of position embeddings (modeling_act.py)."""
    dim = TINY.hidden_dim
    for cvae in (True, False):
        config = replace(TINY, use_vae=cvae)
        plain, both = network(config, state=3), network(config, state=5, environment=2)
        only = network(config, state=2, environment=2)
        sizes = [sum(p.numel() for p in net.parameters()) for net in (plain, both, only)]
        assert sizes[1] - sizes[0] == dim * (2 + 1) + dim  # projection with bias; position
        joints = dim * (3 + 1)  # the CVAE encoder has a projection of its own
        assert sizes[1] - sizes[2] == joints * (1 + cvae) + dim
        assert not hasattr(only, "state_proj")
    assert both.state_proj.in_features == 3
    assert both.environment_proj.in_features == 2
    assert len(both.token_pos) == 3


@pytest.mark.parametrize("sizes", [(), ((16, 24),)])
@pytest.mark.parametrize("environment", [1, 2, 3])
def test_actions_follow_every_state_of_the_environment(
    environment: int, sizes: tuple[tuple[int, int], ...]
) -> None:
    net = network(sizes=sizes, environment=environment)
    state, images, *rest = sample(net, sizes)
    before = net(state, images).action
    for dimension in range(STATE):
        moved = state.clone()
        moved[:, dimension] += 1
        assert not torch.allclose(before, net(moved, images).action), dimension
    loss(net, state, images, *rest).backward()
    for name, parameter in net.named_parameters():
        if "_proj." in name and "attn" not in name:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name


def test_the_posterior_sees_the_joints_and_no_state_of_the_environment() -> None:
    net = network(environment=2)
    state, images, action, is_pad, noise = sample(net)
    before = net(state, images, action, is_pad, noise)
    moved = state.clone()
    moved[:, 1:] += 1
    after = net(moved, images, action, is_pad, noise)
    assert torch.equal(before.mean, after.mean)
    assert not torch.allclose(before.action, after.action)
    moved[:, 0] += 1
    assert not torch.allclose(before.mean, net(moved, images, action, is_pad, noise).mean)
