"""The CLIP score and the agreement with captions of the shapes world."""

import keras
import keras_hub
import numpy as np
import pytest
from PIL import Image

from keras_muse.data import shapes
from keras_muse.evaluation import CaptionAgreement, CLIPScore, clip_scores
from tests.evaluation.given import features, pictures
from tests.tools import on_one_backend, set_weights

CAPTIONS = ["a red circle", "A BLUE square", "a", "red"]


def tiny_clip(seed=11, converter=True):
    """(backbone, preprocessor): 16 x 16 pixels, a vocabulary of letters."""
    settings = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2}
    vision = keras_hub.models.CLIPVisionEncoder(
        patch_size=8, intermediate_dim=16, image_shape=(16, 16, 3), **settings
    )
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "re", "red</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    text = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=len(words),
        embedding_dim=8,
        intermediate_dim=16,
        max_sequence_length=24,
        **settings,
    )
    backbone = keras_hub.models.CLIPBackbone(vision, text, projection_dim=6)
    set_weights(backbone, seed, scale=0.5)
    tokenizer = keras_hub.models.CLIPTokenizer(
        vocabulary={word: index for index, word in enumerate(words)},
        merges=["r e", "re d</w>"],
        pad_with_end_token=True,
    )
    images = keras_hub.layers.CLIPImageConverter(
        image_size=(16, 16), scale=1 / 127.5, offset=-1.0
    )
    preprocessor = keras_hub.models.CLIPPreprocessor(
        tokenizer, images if converter else None, sequence_length=24
    )
    return backbone, preprocessor


@on_one_backend
def test_the_formula_is_that_of_torchmetrics():
    # `golden.py`: torchmetrics 1.9.0, which adds in float32.
    scores = clip_scores(features(8, 6), features(8, 6, phase=0.4))
    assert np.all(scores > 0)
    assert scores.mean() == pytest.approx(92.88613891601562, rel=1e-6)
    # Below a right angle each pair counts as 0, as in the paper.
    one = np.eye(3)
    np.testing.assert_allclose(
        clip_scores(one[[0, 0, 0]], np.stack([one[0], one[1], -one[0]])), [100, 0, 0]
    )
    # Lengths do not count, and none has no angle.
    found = clip_scores([[3.0, 4.0], [0.0, 0.0]], [[0.3, 0.4], [1.0, 1.0]])
    np.testing.assert_allclose(found, [100.0, 0.0])


def test_a_clip(parity):
    backbone, preprocessor = tiny_clip()
    score = CLIPScore(backbone, preprocessor, "tiny")
    images = pictures(4, 32, 32)
    halves = (images[:2], CAPTIONS[:2]), (images[2:], CAPTIONS[2:])
    found = np.concatenate([score.scores(*half) for half in halves])
    assert len(set(found.tolist())) == 4 and np.all(found > 0)
    parity("clip_scores", found, atol=1e-3)
    # Batches add up, and a state goes on.
    score.update(*halves[0])
    state, score.count, score.total = score.state(), 0, 0.0
    score.load_state(state)
    score.update(*halves[1])
    result = score.result()
    assert result["clip_score"] == pytest.approx(found.mean(), rel=1e-12)
    assert (result["generated"], result["model"]) == (4, "tiny")
    digest = bytes.fromhex(result["fingerprint"])
    parity("clip_fingerprint", np.frombuffer(digest, "uint8"))


@on_one_backend
def test_scores_are_the_cosines_of_the_model():
    backbone, preprocessor = tiny_clip()
    images = pictures(4, 32, 32)
    small = [np.asarray(Image.fromarray(i).resize((16, 16), 3)) for i in images]
    ids = preprocessor.tokenizer(["a red circle", "a blue square", "a", "red"])
    packed = np.full((4, 24), preprocessor.tokenizer.end_token_id, "int32")
    packed[:, 0] = preprocessor.tokenizer.start_token_id
    for row, values in zip(packed, ids):
        row[1 : len(values) + 1] = np.asarray(values)
    logits = backbone({"images": np.stack(small) / 127.5 - 1.0, "token_ids": packed})
    logits = keras.ops.convert_to_numpy(logits["vision_logits"])
    # The logits are cosines times a temperature, which is the last weight.
    scale = np.exp(keras.ops.convert_to_numpy(backbone.weights[-1]))
    found = CLIPScore(backbone, preprocessor).scores(images, CAPTIONS)
    np.testing.assert_allclose(found, 100 * np.diag(logits) / scale, rtol=1e-4)


@on_one_backend
def test_the_fingerprint_tells_one_clip_from_another():
    score = CLIPScore(*tiny_clip())
    assert CLIPScore(*tiny_clip(), "other").fingerprint == score.fingerprint
    assert CLIPScore(*tiny_clip(seed=1)).fingerprint != score.fingerprint
    backbone, preprocessor = tiny_clip()
    preprocessor.image_converter.offset = 0.0
    assert CLIPScore(backbone, preprocessor).fingerprint != score.fingerprint


@on_one_backend
def test_a_clip_of_a_preset(tmp_path):
    backbone, preprocessor = tiny_clip()
    folder = tmp_path / "tiny_clip"
    backbone.save_to_preset(str(folder))
    preprocessor.save_to_preset(str(folder))
    score = CLIPScore.from_preset(folder)
    assert score.name == "tiny_clip"
    assert score.fingerprint == CLIPScore(backbone, preprocessor).fingerprint
    images = pictures(4, 20, 28)
    np.testing.assert_allclose(
        score.scores(images, CAPTIONS),
        CLIPScore(backbone, preprocessor).scores(images, CAPTIONS),
        rtol=1e-5,
    )


@on_one_backend
def test_errors_of_clip():
    with pytest.raises(ValueError, match="must have an image converter"):
        CLIPScore(*tiny_clip(converter=False))
    score = CLIPScore(*tiny_clip())
    with pytest.raises(ValueError, match="received 2 images and 3 captions"):
        score.update(pictures(2), CAPTIONS[:3])
    with pytest.raises(ValueError, match="uint8: received"):
        score.update(pictures(2) / 255.0, CAPTIONS[:2])
    with pytest.raises(ValueError, match="at least one picture: received none"):
        score.result()


@on_one_backend
def test_agreement_adds_up():
    images, captions = shapes.examples("held_out_captions", 0, 24, 3)
    agreement = CaptionAgreement()
    with pytest.raises(ValueError, match="at least one picture: received none"):
        agreement.result()
    agreement.update(images[:10], captions[:10])
    again = CaptionAgreement()
    again.load_state(agreement.state())
    again.update(images[10:], captions[10:])
    result = again.result()
    assert result.pop("generated") == 24
    assert set(result.values()) == {1.0}
    # Pictures of others are right now and then, and a relation where there is one.
    again.update(images[::-1], captions)
    assert 0.5 <= again.result()["exact"] < 0.7
    one = CaptionAgreement()
    one.update(*shapes.examples("train", 0, 4, 3, two_groups=0.0))
    assert one.result()["relation"] is None
