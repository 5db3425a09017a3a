"""The feature networks, built from made-up weights: what they compute, and what they refuse."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from eval import extractors, fetch, metrics
from eval.classifier import FEATURES, NAME, Classifier, write_card
from eval.extractors import classifier, inception, lite0
from eval.fetch import INCEPTION_FILES, NoWeights, find_inception


def pictures(count, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def made_up(net):
    """Random weights under which a signal lives on, and random running statistics."""
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
    return net.eval()


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return made_up(Classifier())


@pytest.fixture
def folder(tmp_path, network):
    write_card(tmp_path, network, {})
    return tmp_path


@pytest.mark.parametrize("side", [32, 64])
def test_classifier_gives_the_networks_own_features(side, folder, network):
    images = pictures(extractors.BATCH + 7, side)
    extractor = classifier(folder=folder)
    result = extractor.extract(images)
    resized = interpolate(images.float(), (32, 32), mode="bilinear", antialias=True)  # not rounded
    with torch.no_grad():
        expected = network(resized)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)  # shapes and types as well
    assert [x.shape for x in result] == [(len(images), FEATURES), (len(images), 10)]
    assert result[0].std(dim=0).mean() > 0.01  # they tell images apart
    assert (extractor.name, extractor.resolution, extractor.splits) == (NAME, 32, 1)
    assert "fd_cifar" in extractor.metrics


def test_classifier_refuses_weights_that_are_not_the_cards(folder, tmp_path):
    path = folder / f"{NAME}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(NoWeights, match=rf"{NAME}\.safetensors: its SHA-256 is [0-9a-f]{{12}}\.\."):
        classifier(folder=folder)
    path.unlink()
    with pytest.raises(NoWeights, match=rf"{NAME}\.safetensors: No such file or directory"):
        classifier(folder=folder)
    with pytest.raises(NoWeights, match=rf"{NAME}\.json: No such file or directory"):
        classifier(folder=tmp_path / "nowhere")


def test_committed_weights_are_those_of_their_card():
    card = json.loads((extractors.WEIGHTS / f"{NAME}.json").read_text())
    extractor = classifier()
    assert extractor.sha256 == card["sha256"]
    assert card["parameters"] == sum(p.numel() for p in Classifier().parameters())
    assert 0.91 <= card["accuracy"] < 1
    assert card["test_images"] == 10_000


@pytest.fixture(autouse=True)
def no_weights_elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_inception_gives_what_torch_fidelity_gives(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *args):
            """Keep what the constructor drew."""

    # The real architecture with made-up weights.
    path = tmp_path / "made-up.pth"
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(made_up(Unloaded("made-up", ["2048"], str(path))).state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "INCEPTION_SHA256", sha256)

    before = torch.get_rng_state()
    extractor, images = inception(path, "cpu", tmp_path), pictures(3, 32)
    features, logits = extractor.extract(images)
    assert torch.equal(before, torch.get_rng_state())
    assert (features.shape, logits.shape) == ((3, 2048), (3, 1008))
    theirs = FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(path))
    torch.testing.assert_close((features, logits), theirs(images), rtol=1e-5, atol=1e-5)
    assert features.std(dim=0).mean() > 0.001  # they tell images apart
    assert (extractor.name, extractor.splits) == ("inception-2015-12-05", 10)
    assert [*extractor.metrics] == ["fid", "is", "kid"]


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    data, named = b"not opened", tmp_path / "named.pth"
    named.write_bytes(data)
    monkeypatch.setattr(fetch, "INCEPTION_SHA256", hashlib.sha256(data).hexdigest())
    hub, cache = tmp_path / "hub" / "checkpoints", tmp_path / "cache"

    assert hub.parent == Path(torch.hub.get_dir())

    # In torch hub's folder, under either name, and in the cache.
    for place in [*(hub / name for name in INCEPTION_FILES), cache / INCEPTION_FILES[0]]:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        assert find_inception(None, cache) == data
        place.unlink()

    # A file that the user names is taken or refused; nothing else is tried.
    place.write_bytes(data)
    monkeypatch.setenv("INCEPTION_WEIGHTS", str(named))
    assert find_inception(None, cache) == data
    monkeypatch.setenv("INCEPTION_WEIGHTS", str(tmp_path / "absent.pth"))
    with pytest.raises(NoWeights, match=r"absent\.pth: No such file or directory$"):
        find_inception(None, cache)
    assert find_inception(named, cache) == data


def test_download_is_checked_and_kept(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3

    cache, data, served = tmp_path / "cache", b"not really weights", tmp_path / "weights.pth"
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", served.as_uri())
    monkeypatch.setattr(fetch, "INCEPTION_SHA256", hashlib.sha256(data).hexdigest())
    with pytest.raises(NoWeights, match=r"weights\.pth: .*No such file"):
        find_inception(None, cache)
    served.write_bytes(b"something else")
    with pytest.raises(NoWeights, match=r"weights\.pth: its sha256 is"):
        find_inception(None, cache)
    assert not cache.exists()

    served.write_bytes(data)
    assert find_inception(None, cache) == data
    assert [path.name for path in cache.iterdir()] == [INCEPTION_FILES[0]]
    served.unlink()
    assert find_inception(None, cache) == data  # from the cache


def test_lite0_draws_nothing_and_orders_what_is_done_to_photographs():
    """Pieces of photographs against other pieces: as they are, at 16x16, at 8x8, all grey."""
    before = torch.get_rng_state()
    network = lite0()
    assert torch.equal(before, torch.get_rng_state())
    assert (network.name, [*network.metrics]) == ("efficientnet-lite0", ["kd_imagenet"])
    assert [x.shape for x in network.extract(pictures(3, 32))] == [(3, 1280), (3, 1000)]
    images = [torch.tensor(image).unfold(0, 64, 64) for image in load_sample_images().images]
    pieces = torch.cat([rows.unfold(1, 64, 64).flatten(0, 1) for rows in images])
    real, held_out = pieces[::2], pieces[1::2]
    features = network.extract(real)[0].numpy()

    def reduced(side):
        small = adaptive_avg_pool2d(held_out.float(), side)
        return interpolate(small, held_out.shape[-2:], mode="bilinear").round().to(torch.uint8)

    sets = [held_out, reduced(16), reduced(8), torch.full_like(held_out, 128)]
    distances = [metrics.kid(network.extract(one)[0].numpy(), features) for one in sets]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[1] < 0.5 * distances[3]
