"""Both networks after any epoch of a run: as they were kept, or trained again."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from dcgan.config import Config, fault
from dcgan.train import State, dump_state, load_state, start, train_epoch
from eval.fetch import NoWeights, read_hashed, reason


def state_after(
    run: Path, epoch: int | str, pixels: np.ndarray | None, device: str = "cpu"
) -> tuple[State, Config]:
    """The state of a run after an epoch, or `last`; where it is pruned the run is trained again.

    `pixels`: what it was trained on, uint8 (N, H, W, 3) at its resolution. That it is trained again
    is said on stderr, and whether other bytes came out than were committed, as they do on another
    machine. ValueError names what is missing or damaged.
    """
    config = read_config(run)
    epoch = last_epoch(run) if epoch == "last" else int(epoch)
    path = run / "epochs" / f"{epoch:04d}" / "state.safetensors"
    sha256 = _committed_sha256(path)
    if path.exists():
        try:
            return load_state(read_hashed(path, sha256), config, device), config
        except NoWeights as error:
            raise ValueError(str(error)) from error
        except (SafetensorError, ValueError, LookupError) as error:
            raise ValueError(f"{path}: {reason(error)}") from error
    if pixels is None:
        raise ValueError(f"{path}: is pruned, and cannot be made again without the images")

    print(f"{run}: the state of epoch {epoch} is pruned; training it again", file=sys.stderr)
    state, shown = start(config, device), torch.from_numpy(pixels).to(device)
    while state.epoch < epoch:
        train_epoch(state, config, shown)
    if hashlib.sha256(dump_state(state)).hexdigest() != sha256:
        print(f"{run}: this machine's epoch {epoch} is not the committed one", file=sys.stderr)
    return state, config


def read_config(run: Path) -> Config:
    """The config in run.json, once its own SHA-256, which stands at its end, is found right."""
    path = run / "run.json"
    try:
        data = path.read_bytes()
        body, _, found = data.rpartition(b',\n "sha256": "')
        if found != f'{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode():
            raise ValueError("is not as it was written")
        return Config.model_validate(json.loads(data)["config"])
    except ValidationError as error:
        raise ValueError(f"{path}: {fault(error)}") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {reason(error)}") from error


def last_epoch(run: Path) -> int:
    """The newest committed epoch; 0 where there is none."""
    folders = (path.parent.name for path in run.glob("epochs/[0-9]*/SHA256SUMS"))
    return max((int(name) for name in folders if name.isdecimal()), default=0)


def _committed_sha256(path: Path) -> str:
    """What the SHA256SUMS beside a file says of it."""
    sums = path.with_name("SHA256SUMS")
    try:
        lines = [line.split("  ", 1) for line in sums.read_text().splitlines()]
        committed = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        raise ValueError(f"{sums}: {reason(error)}") from error
    if path.name not in committed:
        raise ValueError(f"{sums}: names no {path.name}")
    return committed[path.name]
