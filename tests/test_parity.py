"""Our metrics beside those of torchmetrics and torch-fidelity, on the same images and network."""

import pytest
import torch
from parity import by_torch_fidelity, by_torchmetrics

from dcgan.data import shapes
from eval.score import reference, score


def test_three_implementations_agree(colours, tmp_path):
    images = torch.from_numpy(shapes(120).pixels[60:]).permute(0, 3, 1, 2) // 2 + 40
    real = reference(colours, shapes(60).pixels, "0" * 64, tmp_path)
    ours = {name.removesuffix("_cifar"): value for name, value in score(images, [real]).items()}
    given = (images, real.features, colours, torch.float64)
    torchmetrics, fidelity = by_torchmetrics(*given), by_torch_fidelity(*given)
    assert list(torchmetrics) == ["fd", "cs", "kd"]
    assert list(fidelity) == ["fd", "cs", "kd", "precision", "recall"]
    for theirs in (torchmetrics, fidelity):
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
        assert min(map(abs, theirs.values())) > 1e-6
