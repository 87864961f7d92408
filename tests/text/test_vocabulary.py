"""The trained vocabulary: one piece a word, characters for the rest, T5's ids."""

import itertools
import string

import pytest

from keras_muse.text import MuseTokenizer, train_vocabulary

# Every word of the captions of the shapes world.
WORDS = (
    "a one two three four small large red green blue yellow purple orange cyan pink "
    "circle square triangle cross circles squares triangles crosses to the left right "
    "of above over below under on white black gray background"
).split()
CAPTIONS = [
    f"{number} {size} {colour} {shape} above a red circle on a white background"
    for number, size, colour, shape in itertools.product(
        WORDS[:5], WORDS[5:7], WORDS[7:15], WORDS[15:23]
    )
]


@pytest.fixture(scope="module")
def tokenizer():
    return MuseTokenizer(proto=train_vocabulary(CAPTIONS, WORDS))


def pieces(tokenizer, text):
    return [tokenizer.id_to_token(int(token)) for token in tokenizer(text)]


def test_the_layout_is_t5s(tokenizer):
    assert tokenizer.get_vocabulary()[:4] == ["<pad>", "</s>", "<unk>", "▁a"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.end_token_id == 1
    assert "<s>" not in tokenizer.get_vocabulary()
    assert tokenizer.vocabulary_size() <= 256
    assert len(set(tokenizer.get_vocabulary())) == tokenizer.vocabulary_size()


def test_every_word_is_one_piece_alone_and_in_captions(tokenizer):
    for index, word in enumerate(WORDS):
        assert pieces(tokenizer, word) == ["▁" + word]
        assert tokenizer.token_to_id("▁" + word) == 3 + index
    for caption in CAPTIONS[::37]:
        assert pieces(tokenizer, caption) == ["▁" + word for word in caption.split()]


def test_case_and_spaces_do_not_count(tokenizer):
    assert pieces(tokenizer, "  Two   RED\ncircles ") == ["▁two", "▁red", "▁circles"]
    assert pieces(tokenizer, "") == []


def test_unknown_words_fall_into_known_characters(tokenizer):
    alphabet = string.ascii_lowercase + string.digits
    for text in [alphabet, "zebra", "redder", "don't", "12 x-rays, 3.5", "Quartz"]:
        found = pieces(tokenizer, text)
        assert "<unk>" not in found
        assert "".join(found) == "▁" + text.lower().replace(" ", "▁")
    assert list(tokenizer("漢"))[-1] == tokenizer.token_to_id("<unk>")


def test_words_are_whole_without_any_sentence():
    tokenizer = MuseTokenizer(proto=train_vocabulary([], WORDS))
    assert all(len(tokenizer(word)) == 1 for word in WORDS)


def test_words_count_once_in_any_case():
    tokenizer = MuseTokenizer(proto=train_vocabulary(CAPTIONS, ["red", "RED", "Red"]))
    assert tokenizer.get_vocabulary()[3:5] == ["▁red", "▁"]


def test_pieces_are_learned_from_the_sentences():
    sentences = ["astronaut horse", "astronaut moon", "a horse on the moon"] * 20
    learned = MuseTokenizer(proto=train_vocabulary(sentences))
    assert len(learned("astronaut")) < len(learned("tuanortsa"))
    assert len(learned("horse")) < len("horse")
    limit = 60
    small = train_vocabulary(sentences, vocabulary_size=limit)
    assert MuseTokenizer(proto=small).vocabulary_size() <= limit


def test_equal_arguments_give_equal_bytes():
    first = train_vocabulary(CAPTIONS, WORDS)
    assert first == train_vocabulary(iter(CAPTIONS), tuple(WORDS))
    assert first != train_vocabulary(CAPTIONS, WORDS[::-1])


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="`sentences`.*'a red circle'"):
        train_vocabulary("a red circle")
    with pytest.raises(TypeError, match="`words`.*'red'"):
        train_vocabulary(["a red circle"], "red")
    for word in ("two words", "", " "):
        with pytest.raises(ValueError, match=f"`words`.*'{word}'"):
            train_vocabulary(CAPTIONS, ["red", word])
    with pytest.raises(ValueError, match="`vocabulary_size` must be at least.*70"):
        train_vocabulary(CAPTIONS, WORDS, vocabulary_size=70)
    with pytest.raises(ValueError, match="`vocabulary_size`=10"):
        train_vocabulary(CAPTIONS, vocabulary_size=10)
    with pytest.raises(ValueError, match="0 `sentences`"):
        train_vocabulary([])
