"""Tokenizers of others: small random models of the same classes, saved as the real ones are."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from trimask.core.errors import ArtifactError, UsageError
from trimask.core.item import Audio
from trimask.tokenizers import artifact
from trimask.tokenizers.pretrained import FAMILIES, PretrainedAudio, PretrainedImage, PretrainedSettings, pretrained

try:
    import torchaudio  # noqa: F401  # pyright: ignore[reportMissingImports]
except (ImportError, OSError):
    # The class of Higgs Audio wants it for its resampling, which we leave to soxr; there are no wheels for every torch.
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def movq(spatial: bool = False):
    return diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        latent_channels=4,
        num_vq_embeddings=16384,
        norm_num_groups=4,
        norm_type="spatial" if spatial else "group",
    )


def janus():
    return transformers.JanusVQVAE(
        transformers.models.janus.configuration_janus.JanusVQVAEConfig(
            base_channels=32, latent_channels=8, num_embeddings=64, num_res_blocks=1, num_patches=4
        )
    )


def emu3():
    return transformers.Emu3VQVAE(
        transformers.Emu3VQVAEConfig(
            codebook_size=128, base_channels=32, channel_multiplier=(1, 1, 1, 1), num_res_blocks=1, hidden_size=32
        )
    )


def mimi():
    return transformers.MimiModel(
        transformers.MimiConfig(
            hidden_size=16, num_filters=4, codebook_size=32, codebook_dim=8, num_quantizers=6, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8, intermediate_size=16,
            vector_quantization_hidden_dimension=8, upsample_groups=16,
        )
    )  # fmt: skip


def dac():
    return transformers.DacModel(
        transformers.DacConfig(
            downsampling_ratios=(2, 4, 5, 8), upsampling_ratios=(8, 5, 4, 2), encoder_hidden_size=4,
            decoder_hidden_size=64, codebook_size=64, n_codebooks=5,
        )
    )  # fmt: skip


def higgs():
    acoustic = {"model_type": "dac", "encoder_hidden_size": 8, "decoder_hidden_size": 64, "hidden_size": 16,
                "downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]}  # fmt: skip
    semantic = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 16, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 4,
                "num_conv_pos_embedding_groups": 2}  # fmt: skip
    return transformers.HiggsAudioV2TokenizerModel(
        transformers.HiggsAudioV2TokenizerConfig(
            acoustic_model_config=acoustic, semantic_model_config=semantic, codebook_size=64, codebook_dim=8
        )
    )


MODELS = {"movq": movq, "janus": janus, "emu3": emu3, "mimi": mimi, "dac": dac, "higgs": higgs}
IMAGES, SOUNDS = ("movq", "janus", "emu3"), ("mimi", "dac", "higgs")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each family, as `save_pretrained` writes it."""
    out = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        out[name] = tmp_path_factory.mktemp(name)
        model = make()
        # Codebooks that come from training are empty.
        for part, values in model.named_buffers():
            if part.endswith(("codebook.embed", "codebook.embed_sum")):
                values.normal_()
        model.save_pretrained(out[name])
    return out


def opened(folders: dict[str, Path], family: str, **more):
    return pretrained(PretrainedSettings(family=family, source=str(folders[family]), **more))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sound(seconds: float, rate: int, seed: int = 0) -> Audio:
    samples = 0.3 * np.random.default_rng(seed).normal(size=round(seconds * rate))
    return Audio(samples.astype(np.float32), rate)


def test_every_family_is_tested():
    assert {*MODELS} == {*FAMILIES} == {*IMAGES, *SOUNDS}


@pytest.mark.parametrize("family", IMAGES)
def test_pictures_come_and_go(folders, family):
    tokenizer = opened(folders, family)
    step, modality = tokenizer.family.step, tokenizer.modality
    pictures = [picture(64, 64), picture(64, 96, 1), picture(64, 64, 2)]
    found = tokenizer.encode(pictures)
    assert [ids.shape for ids in found] == [(p.shape[0] // step, p.shape[1] // step) for p in pictures]
    assert all(ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < modality.codes for ids in found)
    assert len(np.unique(found[0])) > 1
    made = tokenizer.decode(found)
    assert [(p.shape, p.dtype) for p in made] == [(p.shape, np.uint8) for p in pictures]
    # Company does not change the codes.
    for p, ids in zip(pictures, found, strict=True):
        assert np.array_equal(tokenizer.encode([p])[0], ids)
    with pytest.raises(ValueError, match=f"multiples of {step}; resize"):
        tokenizer.encode([picture(64, 65)])
    with pytest.raises(ValueError, match="codes lie in"):
        tokenizer.decode([np.full((4, 4), modality.codes)])


@pytest.mark.parametrize("family", SOUNDS)
def test_recordings_come_and_go(folders, family):
    tokenizer = opened(folders, family)
    step, rate, modality = tokenizer.family.step, tokenizer.family.rate, tokenizer.modality
    clips = [sound(1.0, rate), sound(0.73, rate, 1), sound(1.0, rate, 2), sound(0.5, 8000, 3)]
    found = tokenizer.encode(clips)
    lengths = [rate, round(0.73 * rate), rate, rate // 2]
    assert [ids.shape for ids in found] == [(-(-n // step), modality.levels) for n in lengths]
    assert all(ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < modality.codes for ids in found)
    assert len(np.unique(found[0])) > 1
    made = tokenizer.decode(found)
    assert [len(c.samples) for c in made] == [step * len(ids) for ids in found]
    assert all(c.rate == rate and abs(c.samples).max() <= 1 and c.samples.dtype == np.float32 for c in made)
    for clip, ids in zip(clips, found, strict=True):
        assert np.array_equal(tokenizer.encode([clip])[0], ids)
    with pytest.raises(ValueError, match="has samples and a rate"):
        tokenizer.encode([Audio(np.zeros(0, np.float32), rate)])
    with pytest.raises(ValueError, match="audio codes have shape"):
        tokenizer.decode([found[0][:, :-1]])


@pytest.mark.parametrize("family", ["movq", "higgs"])
def test_groups_are_filled_up(folders, family, monkeypatch):
    """Three of one size, four at once, beside one of another."""
    monkeypatch.setattr("trimask.tokenizers.pretrained.TOGETHER", {"cpu": 4})
    tokenizer = opened(folders, family)
    sizes = (64, 32, 64, 64)
    raws = [picture(n, 32, n) if family == "movq" else sound(n / 64, 24_000, n) for n in sizes]
    found = tokenizer.encode(raws)
    for raw, ids in zip(raws, found, strict=True):
        assert np.array_equal(tokenizer.encode([raw])[0], ids)
    made = tokenizer.decode(found)
    again = [tokenizer.decode([ids])[0] for ids in found]
    for one, other in zip(made, again, strict=True):
        parts = (one, other) if family == "movq" else (one.samples, other.samples)
        assert np.array_equal(*parts)


def test_a_picture_and_a_clip_have_the_tokens_they_are_known_for(folders):
    """256 pixels and ten seconds."""
    image = opened(folders, "movq")
    assert image.encode([picture(256, 256)])[0].size == 1024 and image.modality.codes == 16384
    assert opened(folders, "mimi", levels=4).encode([sound(10, 24_000)])[0].shape == (125, 4)
    assert opened(folders, "dac").encode([sound(10, 16_000)])[0].shape == (500, 5)
    higgs = opened(folders, "higgs", levels=8)
    assert higgs.encode([sound(10, 24_000)])[0].shape == (250, 8)
    modality = higgs.modality
    assert (modality.levels, modality.shared, modality.width) == (8, True, 64 + 2)


@pytest.mark.parametrize("family", ["movq", "mimi"])
def test_codes_are_those_of_the_library(folders, family):
    """What the classes compute by themselves, and what a decoder makes of it."""
    tokenizer = opened(folders, family)
    model = tokenizer.family.model
    with torch.no_grad():
        if family == "movq":
            raw = picture(64, 64)
            pixels = torch.from_numpy(raw).permute(2, 0, 1)[None].float() / 127.5 - 1
            theirs = model(pixels).sample[0]
            ours = tokenizer.decode(tokenizer.encode([raw]))[0]
            expected = ((theirs + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            # The class adds to its latents what lacks to the code, and rounds.
            assert abs(ours.astype(int) - expected).max() <= 1
        else:
            clip = sound(0.8, 24_000)
            theirs = model(torch.from_numpy(clip.samples)[None, None])
            ours = tokenizer.encode([clip])[0]
            assert np.array_equal(ours, theirs.audio_codes[0].T.numpy())
            made = tokenizer.decode([ours])[0].samples
            assert np.allclose(made, theirs.audio_values[0, 0].clamp(-1, 1).numpy(), atol=1e-5)


def test_networks_of_all_kinds_of_codebooks_decode(tmp_path):
    """MoVQ's decoder reads the codes at every size; some models of its class look codes up themselves."""
    torch.manual_seed(0)
    for number, model in enumerate((movq(spatial=True), movq())):
        if number:
            model.register_to_config(lookup_from_codebook=True)
        model.save_pretrained(tmp_path / str(number))
        tokenizer = pretrained(PretrainedSettings(family="movq", source=str(tmp_path / str(number))))
        ids = tokenizer.encode([picture(64, 32)])
        assert tokenizer.decode(ids)[0].shape == (64, 32, 3)


def test_bf16_is_near_and_another_tokenizer(folders):
    exact, rounded = (opened(folders, "movq", dtype=dtype) for dtype in ("fp32", "bf16"))
    assert exact.fingerprint != rounded.fingerprint
    raw = picture(64, 64)
    ids = exact.encode([raw])
    assert rounded.encode([raw])[0].shape == ids[0].shape
    one, other = (t.decode(ids)[0].astype(int) for t in (exact, rounded))
    assert abs(one - other).mean() < 3


@pytest.mark.parametrize("family, kind", [("movq", PretrainedImage), ("dac", PretrainedAudio)])
def test_an_artifact_names_its_weights_and_knows_them_again(folders, tmp_path, family, kind):
    tokenizer = opened(folders, family)
    tokenizer.save(tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [artifact.MANIFEST]
    again = artifact.load(tmp_path / "kept")
    assert isinstance(again, kind) and again.fingerprint == tokenizer.fingerprint
    assert again.modality == tokenizer.modality
    # Other weights in the same place are another tokenizer.
    manifest = json.loads((tmp_path / "kept" / artifact.MANIFEST).read_text())
    torch.manual_seed(1)
    MODELS[family]().save_pretrained(tmp_path / "other")
    manifest["settings"]["source"] = str(tmp_path / "other")
    (tmp_path / "kept" / artifact.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="has fingerprint"):
        artifact.load(tmp_path / "kept")


def test_what_cannot_be_opened(folders, tmp_path):
    with pytest.raises(UsageError, match="no family is called 'vqvae'; there are: movq"):
        pretrained(PretrainedSettings(family="vqvae", source="x"))
    with pytest.raises(ArtifactError, match="there is no folder nowhere; a repository of the hub"):
        pretrained(PretrainedSettings(family="movq", source="nowhere"))
    with pytest.raises(UsageError, match="levels=7: this model has 6"):
        opened(folders, "mimi", levels=7)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="holds no VQModel that can be read"):
        pretrained(PretrainedSettings(family="movq", source=str(tmp_path)))
