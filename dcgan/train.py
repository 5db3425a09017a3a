"""State, and one epoch of training."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from dcgan.config import Config
from dcgan.data import to_signed, to_uint8
from dcgan.models import build, channels_last, seed_of

AT_ONCE = 500  # images that `generate` makes in one pass


@dataclass
class State:
    """All that the next epoch depends on, beside the config and the images."""

    G: nn.Module
    D: nn.Module
    adam_g: torch.optim.Adam
    adam_d: torch.optim.Adam
    epoch: int = 0  # epochs done


@dataclass(frozen=True)
class Log:
    """What one epoch showed: a value a step."""

    images: list[int]  # shown to D in this epoch, up to and including the step
    d_loss: list[float]  # mean of D's two halves, nats
    g_loss: list[float]  # nats, of G's latest step
    d_real: list[float]  # mean probability that D gives to real images
    d_fake: list[float]  # and to generated ones


def start(config: Config, device: str = "cpu") -> State:
    """The state before the first epoch."""
    G, D = (channels_last(net, device) for net in build(config))
    return State(G, D, _adam(G, config.lr_g, config), _adam(D, config.lr_d, config))


def train_epoch(state: State, config: Config, pixels: Tensor) -> Log:
    """Show every image to D once: uint8 (N, H, W, 3), on any device."""
    G, D, adam_g, adam_d = state.G.train(), state.D.train(), state.adam_g, state.adam_d
    device = next(G.parameters()).device

    # The order of the images and the noise of the whole epoch belong to (seed, epoch) alone.
    stream = torch.Generator().manual_seed(seed_of(config.seed, "order", state.epoch + 1))
    order = torch.randperm(len(pixels), generator=stream).to(pixels.device).split(config.batch)
    noise = draw_latent(config, "train", state.epoch + 1, len(pixels)).to(device)
    rows = torch.empty((len(order), 4), device=device)

    # Forward passes run under autocast, and backward passes follow their types.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")

    with matmul_precision(config.precision):  # those of the backward passes as well
        for step, (index, z) in enumerate(zip(order, noise.split(config.batch), strict=True)):
            # A batch of real images (B, 3, H, W), channels last in memory.
            real = to_signed(pixels[index].to(device).permute(0, 3, 1, 2))

            # One pass of G serves both networks.
            with autocast:
                fake = G(z)

            # D learns to tell them apart, in separate passes: the mean of two halves of its loss.
            with autocast:
                real_logits, fake_logits = D(real).float(), D(fake.detach()).float()
            d_loss = (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / 2
            adam_d.zero_grad()
            d_loss.backward()
            adam_d.step()

            # G learns to be taken for real (the non-saturating loss) by a D that stands still.
            if step % config.d_steps == 0:
                D.requires_grad_(False)
                with autocast:
                    g_loss = F.softplus(-D(fake).float()).mean()
                adam_g.zero_grad()
                g_loss.backward()
                adam_g.step()
                D.requires_grad_(True)

            # Keep the numbers on the device until the epoch ends.
            probabilities = real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()
            rows[step] = torch.stack([d_loss, g_loss, *probabilities]).detach()

    state.epoch += 1
    return Log([*itertools.accumulate(map(len, order))], *rows.T.tolist())


def draw_latent(config: Config, stream: str, epoch: int, count: int) -> Tensor:
    """z (count, latent_size) of one stream, on the CPU and so the same for every device."""
    generator = torch.Generator().manual_seed(seed_of(config.seed, f"z {stream}", epoch))
    shape = (count, config.latent_size)
    if config.latent == "normal":
        return torch.randn(shape, generator=generator)
    return torch.rand(shape, generator=generator) * 2 - 1


@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """Images of z (N, latent_size): uint8 (N, 3, H, W) on the CPU; or FloatingPointError.

    In eval mode, with BatchNorm's running statistics, and in float32, whatever the training is in.
    G's mode is put back; neither buffers nor random streams are touched.
    """
    device, images, training = next(G.parameters()).device, [], G.training
    G.eval()
    try:
        with matmul_precision("fp32"):
            for part in z.split(AT_ONCE):
                signed = G(part.to(device))
                if not signed.isfinite().all():
                    raise FloatingPointError("the generator's images are not finite")
                images.append(to_uint8(signed).cpu())
    finally:
        G.train(training)
    return torch.cat(images)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """The precision of float32 products and convolutions of a GPU, while the block starts them."""
    kinds = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for kind, setting in zip(kinds, before, strict=True):
            kind.fp32_precision = setting


def dump_state(state: State) -> bytes:
    """The whole state as one safetensors file: equal states give equal bytes."""
    return save({name: tensor.contiguous() for name, tensor in _tensors(state).items()})


def load_state(data: bytes, config: Config, device: str = "cpu") -> State:
    """The state that `dump_state` wrote; ValueError unless it has just the tensors it should."""
    state, saved = start(config, device), load(data)
    tensors = _tensors(state)
    if _kinds(saved) != _kinds(tensors):
        raise ValueError("the state does not belong to this config")
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
    state.epoch = int(saved["epoch"])
    return state


def _adam(net: nn.Module, lr: float, config: Config) -> torch.optim.Adam:
    """Adam with its moments in place, so that a state has the same tensors from the start."""
    adam = torch.optim.Adam(net.parameters(), lr, (config.beta1, config.beta2), fused=True)
    for p in net.parameters():
        adam.state[p] = {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(p, requires_grad=False),
        }
    return adam


def _tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of a state by name, not copied, and the epoch."""
    tensors = {"epoch": torch.tensor(state.epoch)}
    for name, net, adam in ("G", state.G, state.adam_g), ("D", state.D, state.adam_d):
        tensors |= {f"{name}.{key}": tensor for key, tensor in net.state_dict().items()}
        for key, p in net.named_parameters():
            tensors |= {f"{name}.{key}.{moment}": t for moment, t in adam.state[p].items()}
    return tensors


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
