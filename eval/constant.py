"""How many of G's features are nearly constant, epoch by epoch: have filters collapsed?

The paper reports that with long training some filters collapse (Radford et al., 2015, Section 7).
Here a feature is a channel of a layer of G, or a unit of the plain GAN. Every epoch is given the
same z; a pattern that is the same in every image does not vary, see the NOTES.
"""

import torch
from torch import Tensor, nn

from dcgan.models import Generator
from dcgan.rundir import GENERATOR
from dcgan.train import draw_latent, matmul_precision
from eval.finished import FinishedRun, Result

SAMPLES = 1_000
BATCH = 100  # images at a time
THRESHOLD = 0.01  # of the layer's spread
TITLES = {"share_first": "nearly constant, first", "share_last": "nearly constant, last"}
NOTES = [
    f"nearly constant: the share of G's channels, after the ReLU, that vary over {SAMPLES:,} "
    f"samples by at most {100 * THRESHOLD:g} % of what the channels of their layer do (root of the "
    "variance at a position, averaged over positions; root mean square over channels). "
    "Exploratory: definition and threshold are not the paper's.",
    "stem, up0, up1, ...: G's layers from z to the image; hidden0, ...: those of the plain GAN.",
    "first, last: the share of all layers' channels together, in the first and the last epoch that "
    "kept its generator.",
]


def analyse(run: FinishedRun) -> Result:
    """Shares of nearly constant features after each epoch that kept its generator."""
    z = draw_latent(run.config, "constant", 0, SAMPLES).to(run.device)
    shares: dict[int, dict[str, float]] = {}
    for epoch in run.kept():
        still = {x: nearly_constant(y) for x, y in spreads(run.generator(epoch), z).items()}
        counts = {name: len(x) for name, x in still.items()}
        still = {"all": torch.cat(list(still.values()))} | still
        shares[epoch] = {name: x.double().mean().item() for name, x in still.items()}

    values = {"share_first": shares[min(shares)]["all"], "share_last": shares[max(shares)]["all"]}
    titles = dict(TITLES)
    for name in counts:
        for epoch in shares:
            values[f"share_{name}_{epoch}"] = shares[epoch][name]
            titles[f"share_{name}_{epoch}"] = f"{name}, epoch {epoch}"
    about = {"samples": SAMPLES, "threshold": THRESHOLD, "features": counts}
    about["generator_sha256"] = {str(epoch): run.sha256(GENERATOR, epoch) for epoch in shares}
    return Result(values, titles, about, NOTES)


def layers(G: nn.Module) -> dict[str, nn.Module]:
    """The layers of G whose features are looked at, in order: name -> what ends with its ReLU."""
    if isinstance(G, Generator):
        return {"stem": G.stem} | {f"up{i}": block for i, block in enumerate(G.up)}
    hidden = [layer for layer in G.modules() if isinstance(layer, nn.ReLU)]
    return {f"hidden{i}": layer for i, layer in enumerate(hidden)}


@torch.no_grad()
@matmul_precision("fp32")
def spreads(G: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """How much each feature varies over z (N, latent_size): layer -> (features,) float64."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers(G)}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, kept=outputs[name]: kept.append(output))
        for name, layer in layers(G).items()
    ]
    for part in z.split(BATCH):
        G(part)
    for hook in hooks:
        hook.remove()

    roots = {}
    for name, parts in outputs.items():
        maps = torch.cat(parts).unflatten(1, (-1, 1)).flatten(2)  # (N, features, positions)
        roots[name] = maps.double().var(dim=0, correction=0).mean(dim=1).sqrt().cpu()
    return roots


def nearly_constant(spread: Tensor) -> Tensor:
    """Which of a layer's features are, by their spread (features,): bool (features,)."""
    return spread <= THRESHOLD * spread.square().mean().sqrt()
