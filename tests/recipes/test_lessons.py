"""The first lessons: crowded scenes, full captions, none of them held out."""

import numpy as np
import pytest

from keras_muse.data import shapes, shapes_checker
from keras_muse.recipes import lessons


@pytest.fixture(scope="module")
def many():
    return [lessons.lesson(5, index) for index in range(400)]


def test_captions_are_true_and_leave_nothing_unsaid(many):
    images = np.stack([shapes.render(scene) for scene, _ in many])
    captions = [text for _, text in many]
    assert shapes_checker.agreement(images, captions)["exact"].all()
    for text in captions:
        request = shapes_checker.parse_caption(text)
        assert request.background and all(group.size for group in request.groups)


def test_no_lesson_is_held_out(many):
    for scene, text in many:
        assert not shapes.caption_is_held_out(text)
        pairs = {(group.color, group.shape) for group in scene.groups}
        assert not pairs & shapes.HELD_OUT_PAIRS


def test_most_objects_are_large_and_most_captions_in_order(many):
    large = np.mean([g.size == "large" for scene, _ in many for g in scene.groups])
    in_order = np.mean([scene.relation in ("left of", "above") for scene, _ in many])
    # Scenes that do not fit are drawn again, so there are fewer large objects; three
    # sigma of a share of 400.
    assert 0.5 < large < lessons.LARGE + 0.05
    assert abs(in_order - lessons.IN_ORDER) < 3 * 0.4 / 20
    assert min(group.count for scene, _ in many for group in scene.groups) >= 2


def test_weights_are_one_where_an_object_is(many):
    for scene, _ in many[:50]:
        image = shapes.render(scene)
        cells = image.reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
        background = shapes.BACKGROUNDS[scene.background]
        is_object = (cells != np.array(background)).any(axis=(1, 2))
        weights = lessons.token_weights(scene)
        np.testing.assert_array_equal(weights == 1.0, is_object)
        assert set(weights[~is_object]) <= {np.float32(lessons.BACKGROUND_WEIGHT)}


def test_the_dataset_resumes_where_it_was_cut_off():
    whole = list(lessons.dataset(3, batch_size=4).take(3).as_numpy_iterator())
    rest = next(iter(lessons.dataset(3, batch_size=4, start=8).as_numpy_iterator()))
    for name, value in rest.items():
        np.testing.assert_array_equal(value, whole[2][name])
    assert rest["images"].shape == (4, 64, 64, 3)
    assert rest["token_weights"].shape == (4, 64)
