"""What D's last convolutional features respond to: guided backpropagation, against an untrained D.

From one unit of the last feature map back to the image (Springenberg et al., 2015, arXiv
1412.6806): at every activation the gradient is its slope times the positive part of the gradient
that comes. Each feature of the map is followed back, at the place where it is strongest, from the
TOP images that it responds to most. The energy of a response is its squared gradient, summed over
channels. Both networks see the same images; the untrained one has the run's own initial weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dcgan.data import resize, to_signed, to_uint8
from dcgan.models import build
from dcgan.train import matmul_precision
from eval.finished import FinishedRun, Result, draw

BATCH = 100  # images that D sees at a time
TOP = 4  # images a feature
SHARE = 0.05  # of the pixels
COLUMNS = 12  # features in the figure
TITLES = {
    "energy_trained": "energy in 5 %",
    "energy_untrained": "untrained",
    "energy_ratio": "ratio",
}
NOTES = [
    "energy in 5 %: the share of a feature's squared guided gradient that lies in its most "
    f"energetic 5 % of pixels, mean over all features of D's last map and {TOP} images of each.",
    "untrained: the same with the run's initial weights.",
    "A unit of the last map does not see the whole image, so no share is as low as 5 %.",
]


def analyse(run: FinishedRun, images: int) -> Result:
    """How concentrated the responses of a run's D are to the first images it was trained on."""
    real = resize(run.train(), run.config.resolution).pixels[: run.config.images][:images]
    pixels = torch.from_numpy(real).permute(0, 3, 1, 2)
    networks = {"trained": run.discriminator(), "untrained": build(run.config)[1].to(run.device)}
    values: dict[str, float] = {}
    about, rows = {"images": len(pixels), "top": TOP}, []
    for name, net in networks.items():
        feature, image, gradients = respond(net, to_signed(pixels))

        # Images of the strongest features and, below, their gradients, of which grey is 0.
        features = feature.tolist()
        first = [features.index(number) for number in dict.fromkeys(features)][:COLUMNS]
        largest = gradients[first].abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        rows += [pixels[image[first]], to_uint8(gradients[first] / largest)]

        # A unit that nothing leads back from has no shape: it is counted, and left out.
        energy = gradients.double().square().sum(dim=1).flatten(1).numpy()
        active = energy[energy.sum(axis=1) > 0]
        about |= {f"units_{name}": len(energy), f"silent_{name}": len(energy) - len(active)}
        values[f"energy_{name}"] = float(concentration(active).mean())
    values["energy_ratio"] = values["energy_trained"] / values["energy_untrained"]
    picture = draw([row.permute(0, 2, 3, 1).numpy() for row in rows])
    return Result(values, TITLES, about, NOTES, picture)


@contextmanager
def guided(net: nn.Module) -> Iterator[None]:
    """While the block runs, gradients pass the activations of a network by the guided rule."""

    def keep_positive(layer: nn.Module, gradients: tuple, _: tuple) -> tuple[Tensor]:
        return (gradients[0].clamp(min=0),)  # no slope is negative: so it is that of the gradient

    layers = [layer for layer in net.modules() if isinstance(layer, nn.LeakyReLU | nn.ReLU)]
    hooks = [layer.register_full_backward_hook(keep_positive) for layer in layers]
    for layer in layers:
        layer.inplace = False  # PyTorch hooks no layer that overwrites its input
    yield
    for hook in hooks:
        hook.remove()


@matmul_precision("fp32")
def respond(D: nn.Module, images: Tensor, top: int = TOP) -> tuple[Tensor, Tensor, Tensor]:
    """Follow every feature of D's last map back from the `top` images that it responds to most.

    `images`: (N, 3, H, W) in [-1, 1]. The channel of each unit in the map (U,), which image it
    responds to (U,), its guided gradients (U, 3, H, W), the strongest first. Leaves D in eval mode.
    """
    D, device = D.eval().requires_grad_(False), next(D.parameters()).device

    def last_map(part: Tensor) -> Tensor:
        return D.down(D.from_rgb(part)).flatten(2)  # (N, features, positions)

    # For each feature the images with the strongest units, and their positions in the map.
    maps = torch.cat([last_map(part.to(device)).cpu() for part in images.split(BATCH)])
    peaks, positions = maps.max(dim=2)
    strongest, image = peaks.topk(min(top, len(images)), dim=0)
    position, feature = positions.gather(0, image), torch.arange(maps.shape[1]).expand_as(image)
    order = strongest.flatten().argsort(descending=True, stable=True)
    image, feature, position = (x.flatten()[order] for x in (image, feature, position))

    gradients = []
    for units in torch.arange(len(order)).split(BATCH):
        shown = images[image[units]].to(device).requires_grad_()
        with guided(D):
            chosen = last_map(shown)[torch.arange(len(units)), feature[units], position[units]]
            (gradient,) = torch.autograd.grad(chosen.sum(), shown)
        gradients.append(gradient.cpu())
    return feature, image, torch.cat(gradients)


def concentration(energy: np.ndarray, share: float = SHARE) -> np.ndarray:
    """The share of the energy (N, pixels) in the most energetic `share` of pixels: (N,).

    From `share`, where all pixels are equal, to 1.
    """
    # A pixel that only partly belongs to these counts in that part.
    falling = -np.sort(-energy, axis=1)
    whole, part = divmod(share * energy.shape[1], 1)
    head = falling[:, : int(whole)].sum(axis=1) + part * falling[:, int(whole)]
    return head / falling.sum(axis=1)
