import dataclasses
import math

import pytest
import torch
from safetensors.torch import load, save

from dcgan.config import Config
from dcgan.data import canonical, keep, load_cached, to_uint8, training_images
from dcgan.train import AT_ONCE, draw_latent, dump_state, generate, load_state, start, train_epoch

TINY = Config(resolution=16, width=4, images=50, batch=20, epochs=3)


@pytest.fixture(scope="module")
def pixels():
    stream = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (50, 16, 16, 3), dtype=torch.uint8, generator=stream)


def trained(config, pixels, epochs):
    state = start(config)
    for _ in range(epochs):
        train_epoch(state, config, pixels)
    return dump_state(state)


@pytest.mark.parametrize("classes", ["all", "1"])
@pytest.mark.parametrize("batch", [7, 20])
def test_images_in_memory_and_on_disk_give_the_same_bytes(batch, classes, pixels, tmp_path):
    images = canonical("noise", pixels.numpy(), torch.arange(50).numpy() % 2)
    keep(images, tmp_path, 16)
    count = 48 if classes == "all" else 24
    config = TINY.model_copy(update={"batch": batch, "images": count})
    held = training_images(load_cached(tmp_path, images.sha256, 16), classes, count, "cpu")
    chosen = torch.from_numpy(images.pixels[(images.labels == 1) | (classes == "all")])
    assert trained(config, held, 2) == trained(config, chosen[:count], 2)


def test_seeds_matter_and_the_global_stream_neither_matters_nor_moves(pixels):
    torch.manual_seed(1)
    one = trained(TINY, pixels, 2)
    before = torch.random.get_rng_state()
    assert trained(TINY, pixels, 2) == one
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trained(TINY.model_copy(update={"seed": 1}), pixels, 2) != one


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "changed",
    [{}, {"norm": "batch"}, {"model": "mlp", "d_steps": 2}, {"norm_g": "none", "norm_d": "all"}],
)
def test_resuming_gives_the_whole_state_bit_for_bit(pixels, epoch, changed):
    config = TINY.model_copy(update=changed)
    straight = trained(config, pixels, 3)
    state = load_state(trained(config, pixels, epoch), config)
    for _ in range(3 - epoch):
        train_epoch(state, config, pixels)
    assert dump_state(state) == straight


def test_every_tensor_of_the_state_matters(pixels):
    saved, straight = load(trained(TINY, pixels, 1)), trained(TINY, pixels, 2)
    for name in saved.keys() - {"epoch"}:
        state = load_state(save(saved | {name: saved[name] + 1}), TINY)
        train_epoch(state, TINY, pixels)
        assert dump_state(state) != straight, name


def test_a_state_of_another_kind_is_refused(pixels):
    saved = load(trained(TINY, pixels, 1))
    assert dump_state(load_state(save(saved), TINY)) == save(saved)
    for name, tensor in saved.items():
        rest = {key: other for key, other in saved.items() if key != name}
        longer, wider = torch.stack([tensor, tensor]), tensor.to(torch.float64)
        for added in ({}, {f"{name}x": tensor}, {name: longer}, {name: wider}):
            with pytest.raises(ValueError, match="does not belong"):
                load_state(save(rest | added), TINY)


def test_d_is_shown_every_image_once_with_channels_last_and_every_step_is_logged(pixels):
    state, seen = start(TINY), []
    state.D.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    log = train_epoch(state, TINY, pixels)
    assert log.images == [20, 40, 50]
    assert all(len(values) == 3 for values in dataclasses.asdict(log).values())
    real = seen[::3]  # and between them, twice, what G makes
    assert [len(images) for images in real] == [20, 20, 10]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in real)
    shown = to_uint8(torch.cat(real)).permute(0, 2, 3, 1).numpy()
    assert sorted(x.tobytes() for x in shown) == sorted(x.tobytes() for x in pixels.numpy())


def test_the_first_losses_are_the_blogs_objective(pixels):
    # One step at a vanishing learning rate, beside the objective written out with BCE on a sigmoid.
    config = TINY.model_copy(update={"batch": 50, "lr_g": 1e-12, "lr_d": 1e-12})
    state = start(config)
    log = train_epoch(state, config, pixels)

    fresh = start(config)
    real = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    fake = fresh.G(draw_latent(config, "train", 1, 50)).detach()
    bce = torch.nn.BCELoss()
    ones, zeros = torch.ones(50), torch.zeros(50)
    p_real, p_fake = fresh.D(real).sigmoid(), fresh.D(fake).sigmoid()
    both = (bce(p_real, ones) + bce(p_fake, zeros)).item()
    assert log.d_loss[0] == pytest.approx(both / 2, rel=1e-5)
    assert log.g_loss[0] == pytest.approx(bce(p_fake, ones).item(), rel=1e-4)
    assert log.d_real[0] == pytest.approx(p_real.mean().item(), rel=1e-5)
    assert log.d_fake[0] == pytest.approx(p_fake.mean().item(), rel=1e-5)


def test_g_makes_one_step_for_several_of_d(pixels):
    config = TINY.model_copy(update={"batch": 10, "d_steps": 3})
    state = start(config)
    log = train_epoch(state, config, pixels)
    (steps,) = {int(state.adam_g.state[p]["step"]) for p in state.G.parameters()}
    (of_d,) = {int(state.adam_d.state[p]["step"]) for p in state.D.parameters()}
    assert (steps, of_d) == (2, 5)  # at the first and the fourth batch of five
    assert log.g_loss[0] == log.g_loss[1] == log.g_loss[2] != log.g_loss[3] == log.g_loss[4]
    assert len(set(log.d_loss)) == 5


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_latent_noise(latent):
    config = TINY.model_copy(update={"latent": latent})
    z = draw_latent(config, "train", 1, 2000)
    wanted = 1.0 if latent == "normal" else 1 / math.sqrt(3)
    assert z.shape == (2000, 100)
    assert z.std().item() == pytest.approx(wanted, rel=0.01)
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert not torch.equal(z, draw_latent(config, "train", 2, 2000))
    assert not torch.equal(z, draw_latent(config, "score", 1, 2000))
    # Batch 128 and batch 512 see the same noise.
    assert torch.equal(z, draw_latent(config.model_copy(update={"batch": 10}), "train", 1, 2000))


def test_bf16_differs_and_a_cpu_has_no_tf32(pixels):
    precisions = ("fp32", "tf32", "bf16")
    configs = [TINY.model_copy(update={"precision": name}) for name in precisions]
    fp32, tf32, bf16 = (trained(config, pixels, 1) for config in configs)
    assert fp32 == tf32 != bf16


def product_settings():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize(
    ("precision", "setting"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")]
)
def test_forward_and_backward_passes_have_the_precision_of_the_config(pixels, precision, setting):
    config = TINY.model_copy(update={"precision": precision})
    state, before, seen = start(config), product_settings(), []
    for net in (state.G, state.D):
        net.register_forward_hook(lambda *_: seen.append(("forward", product_settings())))
        for p in net.parameters():
            p.register_hook(lambda gradient: seen.append(("backward", product_settings())))
    train_epoch(state, config, pixels)
    assert set(seen) == {("forward", (setting,) * 2), ("backward", (setting,) * 2)}
    assert product_settings() == before


def test_images_are_what_the_generator_says_in_eval_mode(make_generator):
    generator = make_generator(TINY).train()
    z = draw_latent(TINY, "test", 0, AT_ONCE + 3)
    images = generate(generator, z)
    with torch.no_grad():
        signed = generator.eval()(z)
        trained = ((generator.train()(z) + 1) * 127.5).round()
    assert (images.shape, images.dtype) == ((AT_ONCE + 3, 3, 16, 16), torch.uint8)
    assert (images.float() - (signed + 1) * 127.5).abs().max() <= 0.5 + 1e-3  # nearest level
    assert (images.float() - trained).abs().max() >= 1  # BatchNorm's two modes differ


def test_generating_leaves_no_trace(make_generator):
    generator = make_generator(TINY).train()
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    random = torch.get_rng_state()
    generate(generator, draw_latent(TINY, "test", 0, 30))
    assert all(module.training for module in generator.modules())
    assert all(torch.equal(value, state[name]) for name, value in generator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
