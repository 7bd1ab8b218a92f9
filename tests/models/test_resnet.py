"""Tests of the ResNet18 backbone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from imitact.core.errors import BadInput, DamagedFile
from imitact.models import resnet
from imitact.models.resnet import Backbone, FrozenNorm, load_pretrained
from tests.support.paths import FIXTURES

TORCHVISION = FIXTURES / "model_parity/torchvision_resnet18.json"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(**settings: Any) -> Backbone:
    net = Backbone(**{"width": 16, "stages": 2, **settings})
    net.initialize(seeded())
    return net


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """Return tensors with torchvision's names and shapes, classifier included."""
    shapes: dict[str, list[int]] = json.loads(TORCHVISION.read_text())
    draw = seeded(7)
    weights = {n: 0.05 * torch.randn(s, generator=draw) for n, s in shapes.items()}
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(99)
    return weights


def test_a_480x640_frame_becomes_15x20_features_of_512_channels() -> None:
    net = Backbone(norm="frozen")
    assert net(torch.zeros(1, 3, 480, 640)).shape == (1, 512, 15, 20)
    assert net.grid(480, 640) == (15, 20)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (31, 65), (64, 97), (120, 160)])
def test_the_grid_is_the_size_of_the_backbones_output(stages: int, size: tuple[int, int]) -> None:
    net = built(stages=stages).eval()
    features = net(torch.zeros(1, 3, *size))
    assert features.shape == (1, net.channels, *net.grid(*size))


def test_parameter_names_are_torchvisions() -> None:
    with torch.device("meta"):
        own = {n: list(v.shape) for n, v in Backbone(norm="batch").state_dict().items()}
    theirs = json.loads(TORCHVISION.read_text())
    assert own == {n: s for n, s in theirs.items() if not n.startswith("fc.")}


@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_imagenet_weights_load_from_both_file_types(
    imagenet: dict[str, Tensor], kind: str, norm: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"resnet18{kind}"
    if kind == ".pth":
        torch.save(imagenet, path)
    else:
        safetensors.torch.save_file(imagenet, path)
    net = Backbone(norm=norm)
    load_pretrained(net, str(path))
    for name, value in net.state_dict().items():
        assert torch.equal(value, imagenet[name]), name


def test_frozen_norm_is_batch_norm_in_eval_mode_and_never_changes() -> None:
    batch, frozen = nn.BatchNorm2d(8), FrozenNorm(8)
    draw = seeded(3)
    for name, value in frozen.state_dict().items():
        value.copy_(torch.rand(8, generator=draw) + 0.5)
        batch.state_dict()[name].copy_(value)
    before = {n: v.clone() for n, v in frozen.state_dict().items()}
    x = torch.randn(4, 8, 5, 6, generator=draw)
    assert torch.allclose(frozen.train()(x), batch.eval()(x), rtol=1e-6, atol=1e-6)
    scale = frozen.weight * (frozen.running_var + 1e-5).rsqrt()
    shift = frozen.bias - frozen.running_mean * scale
    by_hand = x * scale[:, None, None] + shift[:, None, None]
    assert torch.allclose(frozen(x), by_hand, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(v, before[n]) for n, v in frozen.state_dict().items())
    assert not list(frozen.parameters())


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_without_batch_statistics_frames_are_independent(norm: Any) -> None:
    net = built(norm=norm).train()
    x = torch.randn(3, 3, 32, 32, generator=seeded())
    assert torch.allclose(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)


def test_with_batch_statistics_frames_depend_on_each_other_in_training_only() -> None:
    net = built(norm="batch")
    x = torch.randn(3, 3, 32, 32, generator=seeded())
    assert not torch.allclose(net(x)[1:2], net(x[1:2]), rtol=1e-2, atol=1e-2)
    net.eval()
    assert torch.allclose(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_channels_last_changes_only_the_speed(norm: Any) -> None:
    net = built(norm=norm, stages=3).eval()
    x = torch.randn(2, 3, 40, 56, generator=seeded())
    plain = net(x)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = net(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(plain, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_under_bfloat16_autocast_features_stay_close(norm: Any) -> None:
    net = built(norm=norm).eval()
    x = torch.randn(1, 3, 24, 24, generator=seeded())
    plain = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x).float()
    assert torch.allclose(plain, rough, rtol=0.1, atol=0.1 * float(plain.detach().abs().max()))


def test_all_initial_weights_come_from_the_generator() -> None:
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        nets = [Backbone(width=16, stages=2) for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        net.to_empty(device="cpu")
        net.initialize(seeded(seed))
    assert torch.equal(torch.random.get_rng_state(), state)
    first, same, other = (net.state_dict() for net in nets)
    assert all(torch.equal(v, same[n]) for n, v in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_frozen_norms_without_weights_are_refused_unless_chosen_explicitly() -> None:
    net = built(norm="frozen")
    with pytest.raises(BadInput, match=r'none were given.*"imagenet-download".*"none"'):
        load_pretrained(net, "")
    before = net.conv1.weight.clone()
    load_pretrained(net, "none")
    assert torch.equal(net.conv1.weight, before)
    load_pretrained(built(norm="batch"), "")


def test_weights_of_another_width_are_refused(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(imagenet, tmp_path / "w.pth")
    with pytest.raises(BadInput, match=r"need backbone_width 64"):
        load_pretrained(Backbone(width=32), str(tmp_path / "w.pth"))


def test_group_norms_refuse_weights_trained_with_batch_norm() -> None:
    with pytest.raises(BadInput, match="trained with batch norm"):
        load_pretrained(built(norm="group"), "w.pth")


def test_a_file_without_weights_is_named(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    net = Backbone()
    with pytest.raises(BadInput, match=r'absent\.pth".*no such file'):
        load_pretrained(net, str(tmp_path / "absent.pth"))
    for name in ("junk.pth", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(DamagedFile, match="cannot be read as weights"):
            load_pretrained(net, str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DamagedFile, match="holds list, expected tensors"):
        load_pretrained(net, str(tmp_path / "list.pth"))
    torch.save({n: w for n, w in imagenet.items() if n != "bn1.bias"}, tmp_path / "less.pth")
    with pytest.raises(DamagedFile, match=r"1 of 120 weights are missing.*\"bn1\.bias"):
        load_pretrained(net, str(tmp_path / "less.pth"))


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def test_a_weights_file_is_never_executed(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(DamagedFile):
            load_pretrained(Backbone(), str(tmp_path / name))
    assert not Trap.sprung


def test_weights_are_downloaded_only_on_explicit_choice(
    imagenet: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def network(url: str, **settings: Any) -> dict[str, Tensor]:
        asked.append((url, settings["weights_only"], settings["check_hash"]))
        return imagenet

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", network)
    load_pretrained(built(norm="batch"), "")
    load_pretrained(built(norm="frozen"), "none")
    assert asked == []
    net = Backbone(norm="frozen")
    load_pretrained(net, "imagenet-download")
    assert asked == [(resnet.IMAGENET_URL, True, True)]
    assert torch.equal(net.conv1.weight, imagenet["conv1.weight"])


def test_without_a_network_the_error_names_the_file_to_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def network(*_args: Any, **_settings: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", network)
    with pytest.raises(BadInput, match=r"could not download.*resnet18-f37072fd\.pth.*no route"):
        load_pretrained(built(norm="frozen"), "imagenet-download")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "layer"}, 'norm is "layer"; it must be one of frozen, batch, group'),
        ({"stages": 5}, "stages 1 to 4"),
        ({"width": 0}, "width must be at least 1"),
        ({"norm": "group", "width": 24}, "multiple of 16; it is 24"),
    ],
)
def test_invalid_backbone_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Backbone(**settings)
