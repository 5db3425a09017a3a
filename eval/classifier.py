"""The bundled CIFAR-10 classifier: its network, and how it was trained."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dcgan import rundir
from dcgan.cli import BadInput
from dcgan.data import Images, load, to_signed

NAME = "cifar10-resnet"
FEATURES = 192
BATCH = 250
EPOCHS = 28
PEAK_LR = 0.2
WEIGHT_DECAY = 5e-4
PADDING = 4  # pixels by which a training image is shifted at most


class Block(nn.Module):
    """Double the channels, halve the side; then one residual pair of convolutions."""

    def __init__(self, channels_in: int, channels_out: int, downsample: str) -> None:
        super().__init__()
        stride = 2 if downsample == "stride" else 1
        self.pool = nn.MaxPool2d(2) if downsample == "maxpool" else nn.Identity()
        self.enter = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.enter_norm = nn.BatchNorm2d(channels_out)
        self.first = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter_norm(self.pool(self.enter(x))), inplace=True)
        y = F.relu(self.first_norm(self.first(x)), inplace=True)
        return x + F.relu(self.second_norm(self.second(y)), inplace=True)


class Classifier(nn.Module):
    """A ResNet of ten convolutions, 1.1 million parameters, for 32x32 images of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(
            Block(24, 48, "stride"),  # 32x32 -> 16x16
            Block(48, 96, "maxpool"),  # 16x16 -> 8x8
            Block(96, FEATURES, "maxpool"),  # 8x8 -> 4x4
        )
        self.linear = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images (N, 3, 32, 32) -> features (N, 192), logits (N, 10)."""
        x = F.relu(self.stem_norm(self.stem(to_signed(images))), inplace=True)
        features = self.blocks(x).mean(dim=(2, 3))
        return features, self.linear(features)


def folded(net: Classifier) -> Classifier:
    """The network for inference: each BatchNorm in the convolution right before it."""
    convolutions = [(net, "stem")]
    for block in net.blocks:
        pooled = isinstance(block.pool, nn.MaxPool2d)  # between the first convolution and its norm
        convolutions += [(block, name) for name in ("enter", "first", "second")[pooled:]]
    for module, name in convolutions:
        conv, norm = getattr(module, name), getattr(module, f"{name}_norm")
        setattr(module, name, fuse_conv_bn_eval(conv, norm))
        setattr(module, f"{name}_norm", nn.Identity())
    return net


def train_classifier(train: Images, test: Images, seed: int) -> tuple[Classifier, float]:
    """Train on flipped and shifted images; return the network and its accuracy on `test`."""
    # The weights and the augmentation each have their own stream.
    torch.manual_seed(seed)
    net = Classifier().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    padding = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    padded = np.pad(train.pixels, padding, mode="reflect")

    # SGD with Nesterov momentum; the rate climbs for a fifth of the steps and falls to zero.
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=PEAK_LR, momentum=0.9, nesterov=True)
    steps = EPOCHS * (len(train.pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: np.interp(step, [0, steps / 5, steps], [0.1, 1, 0]).item()
    )

    shown, labels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2), torch.from_numpy(test.labels)
    for epoch in range(1, EPOCHS + 1):
        net.train()
        order = rng.permutation(len(train.pixels))
        for i in range(len(order) // BATCH):
            batch = order[i * BATCH : (i + 1) * BATCH]
            images = torch.from_numpy(_augment(padded, batch, rng)).permute(0, 3, 1, 2)
            loss = F.cross_entropy(net(images)[1], torch.from_numpy(train.labels[batch]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

        # The share of test images whose most probable class is their label.
        net.eval()
        with torch.no_grad():
            named = torch.cat([net(part)[1].argmax(1) for part in shown.split(500)])
        accuracy = (named == labels).double().mean().item()
        print(f"epoch {epoch}/{EPOCHS}  test accuracy {accuracy:.4f}")
    return net, accuracy


def train_and_write(
    train: str, test: str, seed: int, threads: int | None, out: Path, cache: Path
) -> tuple[Path, float]:
    """Train on sources of 32x32 images of ten classes; the file of weights, and its accuracy."""
    # Read both sets before an hour of work depends on them.
    sets = [load(train, cache), load(test, cache, "test")]
    for images in sets:
        if images.pixels.shape[1:] != (32, 32, 3) or {*images.labels.tolist()} != {*range(10)}:
            raise BadInput(f"{images.name}: not 32x32 images with labels from 0 to 9")
    torch.set_num_threads(threads or torch.get_num_threads())
    net, accuracy = train_classifier(*sets, seed)
    about = {
        "accuracy": accuracy,
        "test_images": len(sets[1].pixels),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "train_sha256": sets[0].sha256,
        "test_sha256": sets[1].sha256,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    return write_card(out, net, about), accuracy


def write_card(folder: Path, net: Classifier, about: dict[str, Any]) -> Path:
    """Write the weights, and beside them the card that says where they come from."""
    path = folder / f"{NAME}.safetensors"
    data = save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})
    parameters = sum(p.numel() for p in net.parameters())
    card = {"network": NAME, "parameters": parameters, "features": FEATURES, **about}
    card["sha256"] = hashlib.sha256(data).hexdigest()
    rundir.replace(path, data)
    rundir.replace(path.with_suffix(".json"), rundir.to_json(card))
    return path


def _augment(padded: np.ndarray, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window at a random place out of each padded image, and mirror every other one."""
    window = np.arange(padded.shape[1] - 2 * PADDING)
    top, left = rng.integers(0, 2 * PADDING + 1, (2, len(batch), 1))
    rows, columns = top + window, left + window  # (n, side)
    mirrored = rng.random(len(batch)) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
