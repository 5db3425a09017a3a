"""The same metrics by torchmetrics and torch-fidelity."""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from dcgan.train import AT_ONCE
from eval.extractors import Extractor
from eval.metrics import NEIGHBOUR


class Borrowed(nn.Module):
    """Our feature network in the form that torchmetrics takes."""

    def __init__(self, extractor: Extractor, output: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_features = extractor.features
        self.extractor, self.output, self.dtype = extractor, output, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor.extract(images)[self.output].to(self.dtype)


def by_torchmetrics(
    images: Tensor, nearby: np.ndarray, extractor: Extractor, dtype: torch.dtype
) -> dict[str, float]:
    """fd, cs and kd by torchmetrics: images through `feature=`, the real side as features."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    real = torch.from_numpy(nearby).to(dtype)
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # it sums in a random order
        network = Borrowed(extractor, 0, dtype)
        distance = FrechetInceptionDistance(feature=network)
        kernel = KernelInceptionDistance(feature=network, subsets=1, subset_size=len(real))
        diversity = InceptionScore(feature=Borrowed(extractor, 1, dtype), splits=1)
        for metric in (distance, kernel):
            metric.update(images, real=False)
            metric.inception = nn.Identity()
            metric.update(real, real=True)
        diversity.update(images)
        return {
            "fd": distance.compute().item(),
            "cs": diversity.compute()[0].item(),
            "kd": kernel.compute()[0].item(),
        }


def by_torch_fidelity(
    images: Tensor, nearby: np.ndarray, extractor: Extractor, dtype: torch.dtype
) -> dict[str, float]:
    """fd, cs, kd, precision, recall by torch-fidelity: images through an extractor of its kind."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torch_fidelity.utils import get_featuresdict_from_dataset

    class Network(FeatureExtractorBase):
        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "logits"

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(output.to(dtype) for output in extractor.extract(x))

    with torch.random.fork_rng(devices=[]):
        network = Network("ours", ["features", "logits"])
        listed = torch.utils.data.Subset(images, range(len(images)))
        seen = get_featuresdict_from_dataset(listed, network, AT_ONCE, False, True, False)
    features, real = seen["features"], torch.from_numpy(nearby).to(dtype)
    moments = [fid_features_to_statistics(x) for x in (features, real)]
    options = {"kid_subsets": 1, "kid_subset_size": len(real), "prc_neighborhood": NEIGHBOUR}
    options |= {"save_cpu_ram": False, "verbose": False}
    neighbours = prc_features_to_metric(features, real, **options)
    return {
        "fd": fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"],
        "cs": isc_features_to_metric(seen["logits"], splits=1)["inception_score_mean"],
        "kd": kid_features_to_metric(features, real, **options)["kernel_inception_distance_mean"],
        "precision": neighbours["precision"],
        "recall": neighbours["recall"],
    }
