"""Our metrics beside those of torchmetrics and torch-fidelity, on the same images and network."""

import warnings

import pytest
import torch
from torch import nn

from dcgan.data import shapes
from eval.metrics import NEIGHBOUR
from eval.score import reference, score


class Borrowed(nn.Module):
    """Our feature network in the form that torchmetrics takes."""

    def __init__(self, extractor, output):
        super().__init__()
        self.num_features, self.extractor, self.output = 6, extractor, output

    def forward(self, images):
        return self.extractor.extract(images)[self.output].double()


def by_torchmetrics(images, real, extractor):
    """fd, cs and kd by torchmetrics: images through `feature=`, the real side as features."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # it sums in a random order
        network = Borrowed(extractor, 0)
        distance = FrechetInceptionDistance(feature=network)
        kernel = KernelInceptionDistance(feature=network, subsets=1, subset_size=len(real))
        diversity = InceptionScore(feature=Borrowed(extractor, 1), splits=1)
        for metric in (distance, kernel):
            metric.update(images, real=False)
            metric.inception = nn.Identity()
            metric.update(real, real=True)
        diversity.update(images)
        values = distance.compute(), diversity.compute()[0], kernel.compute()[0]
    return dict(zip(("fd", "cs", "kd"), (x.item() for x in values), strict=True))


def by_torch_fidelity(images, real, extractor):
    """fd, cs, kd, precision, recall by torch-fidelity: images through an extractor of its kind."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torch_fidelity.utils import get_featuresdict_from_dataset

    class Network(FeatureExtractorBase):
        @staticmethod
        def get_provided_features_list():
            return "features", "logits"

        def forward(self, x):
            return tuple(output.double() for output in extractor.extract(x))

    with torch.random.fork_rng(devices=[]):
        network = Network("ours", ["features", "logits"])
        listed = torch.utils.data.Subset(images, range(len(images)))
        seen = get_featuresdict_from_dataset(listed, network, len(images), False, True, False)
    features = seen["features"]
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


@pytest.mark.parametrize("measure", [by_torchmetrics, by_torch_fidelity])
def test_another_implementation_agrees(measure, colours, tmp_path):
    images = torch.from_numpy(shapes(120).pixels[60:]).permute(0, 3, 1, 2) // 2 + 40
    real = reference(colours, shapes(60).pixels, "0" * 64, tmp_path)
    theirs = measure(images, torch.from_numpy(real.features).double(), colours)
    ours = score(images, [real])
    assert {name: ours[f"{name}_cifar"] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    assert min(map(abs, theirs.values())) > 1e-6
