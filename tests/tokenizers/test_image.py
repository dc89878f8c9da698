import numpy as np
import pytest
import torch

from tests.tokenizers.samples import SMALL_IMAGE, image_tokenizer, other, shapes
from trimask.core.errors import ArtifactError
from trimask.tokenizers.artifact import MANIFEST, WEIGHTS, load
from trimask.tokenizers.image import ImageAutoencoder, ImageSettings, ImageTokenizer


@pytest.mark.parametrize("rows, columns", [(28, 28), (32, 32), (48, 64), (96, 28)])
def test_one_code_for_four_by_four_pixels(rows, columns):
    tokenizer = image_tokenizer()
    picture = shapes(0, rows, columns)
    (ids,) = tokenizer.encode([picture])
    assert ids.shape == (rows // 4, columns // 4) and ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < tokenizer.modality.codes == SMALL_IMAGE.codes
    (made,) = tokenizer.decode([ids])
    assert made.shape == picture.shape and made.dtype == np.uint8


def test_a_scene_of_32_pixels_has_64_codes():
    assert image_tokenizer().encode([shapes(0)])[0].size == 64


def test_an_element_does_not_depend_on_its_batch():
    tokenizer = image_tokenizer(ImageSettings())
    batch = [shapes(i, *sides) for i, sides in enumerate([(32, 32), (28, 28), (32, 32), (64, 32)])]
    together = tokenizer.encode(batch)
    for picture, ids in zip(batch, together, strict=True):
        assert np.array_equal(tokenizer.encode([picture])[0], ids)
    for ids, made in zip(together, tokenizer.decode(together), strict=True):
        assert np.array_equal(tokenizer.decode([ids])[0], made)


def test_every_code_can_be_decoded_and_codes_name_their_vectors():
    network = ImageAutoencoder(SMALL_IMAGE)
    ids = torch.arange(SMALL_IMAGE.codes).reshape(1, 3, 4)
    vectors = network.vectors(ids)
    assert torch.equal(network.quantizer.codes_to_indices(vectors.movedim(1, -1)), ids.int())


def test_the_gradient_passes_the_quantizer():
    network = ImageAutoencoder(SMALL_IMAGE)
    made, _ = network(torch.rand(2, 3, 32, 32))
    made.square().mean().backward()
    assert network.stem.weight.grad is not None and network.stem.weight.grad.abs().max() > 0


def test_an_empty_area_has_one_code_wherever_it_lies():
    network = ImageAutoencoder(SMALL_IMAGE)
    _, ids = network.encode(torch.full((1, 3, 32, 48), 0.3))
    assert ids.unique().numel() == 1


def test_indecision_is_the_distance_to_the_nearest_level():
    network = ImageAutoencoder(ImageSettings(levels=(5, 5)))
    half = 2 * 1.001
    z = torch.atanh(torch.tensor([1.0, 0.75]) / half).view(1, 2, 1, 1)
    assert network.indecision(z).item() == pytest.approx(0.25**2 / 2, rel=1e-4)
    assert network.indecision(torch.zeros(1, 2, 3, 3)).item() == 0


def test_a_code_depends_on_its_cell_and_two_pixels_around_it():
    network = ImageAutoencoder(ImageSettings())
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    network.latent(pixels)[0, :, 3, 4].sum().backward()
    seen = pixels.grad[0].abs().sum(0) > 0
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[12 - 2 : 16 + 2, 16 - 2 : 20 + 2] = True
    assert torch.equal(seen, expected)


def test_the_digits_of_a_code_are_the_levels_of_its_vector():
    tokenizer = image_tokenizer()
    codes = torch.arange(SMALL_IMAGE.codes)
    vectors = ImageAutoencoder(SMALL_IMAGE).vectors(codes.reshape(1, 1, -1))[0, :, 0]
    rest = codes
    assert tokenizer.modality.digits == SMALL_IMAGE.levels
    for base, values in zip(tokenizer.modality.digits, vectors, strict=True):
        assert torch.equal(values.unique()[rest % base], values), "the digit is the level, counted from the lowest"
        rest = rest // base


@pytest.mark.parametrize(
    "picture, reason",
    [
        (np.zeros((30, 32, 3), np.uint8), "multiples of 4"),
        (np.zeros((24, 32, 3), np.uint8), "28"),
        (np.zeros((32, 100, 3), np.uint8), "96"),
        (np.zeros((32, 32), np.uint8), "uint8 array"),
        (np.zeros((32, 32, 3), np.float32), "uint8 array"),
    ],
)
def test_a_picture_that_cannot_be_encoded_is_refused(picture, reason):
    with pytest.raises(ValueError, match=reason):
        image_tokenizer().encode([picture])


@pytest.mark.parametrize("ids", [np.full((8, 8), 12), np.full((8, 8), -1), np.zeros(64, int), np.zeros((8, 8))])
def test_codes_that_are_none_are_refused(ids):
    with pytest.raises(ValueError, match="codes"):
        image_tokenizer().decode([ids])


def test_an_artifact_gives_the_same_codes(tmp_path):
    tokenizer = image_tokenizer()
    tokenizer.save(tmp_path / "image")
    again = load(tmp_path / "image")
    assert isinstance(again, ImageTokenizer)
    assert again.fingerprint == tokenizer.fingerprint and again.settings == tokenizer.settings
    assert np.array_equal(again.encode([shapes(3)])[0], tokenizer.encode([shapes(3)])[0])


def test_the_fingerprint_follows_settings_and_weights_but_not_quality():
    tokenizer = image_tokenizer()
    assert image_tokenizer(seed=1).fingerprint != tokenizer.fingerprint
    assert image_tokenizer(other(SMALL_IMAGE)).fingerprint != tokenizer.fingerprint
    praised = ImageTokenizer(SMALL_IMAGE, tokenizer.weights, {"world": {"psnr": 40.0}})
    assert praised.fingerprint == tokenizer.fingerprint


def test_a_damaged_artifact_is_refused(tmp_path):
    folder = tmp_path / "image"
    image_tokenizer().save(folder)
    manifest = (folder / MANIFEST).read_text()
    for wrong, reason in (
        (manifest.replace("image-fsq", "image-xyz"), "unknown"),
        (manifest.replace('"width": 8', '"width": 9'), "fit"),
        (manifest.replace('"width"', '"breadth"'), "settings"),
        (manifest[:-20], "JSON"),
    ):
        (folder / MANIFEST).write_text(wrong)
        with pytest.raises(ArtifactError, match=reason):
            load(folder)
    (folder / MANIFEST).write_text(manifest)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="weights"):
        load(folder)
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        load(tmp_path / "nothing")
