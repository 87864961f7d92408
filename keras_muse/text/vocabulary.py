"""A small SentencePiece vocabulary in T5's layout, for encoders trained anew."""

import io
import string

import sentencepiece

__all__ = ["train_vocabulary"]

SPECIAL_PIECES = ("<pad>", "</s>", "<unk>")
SPACE = "\u2581"


def train_vocabulary(
    sentences,
    words=(),
    vocabulary_size=256,
    characters=string.ascii_lowercase + string.digits + ".,'-",
):
    """Trains a lower-casing SentencePiece model.

    The ids are `<pad>` 0, `</s>` 1, `<unk>` 2 as in T5, then the words in their order,
    the characters, and what was learned from the sentences, the most likely first.
    Equal arguments give equal bytes.

    Args:
        sentences: iterable of str, the captions to learn pieces from. May be empty if
            there are words.
        words: sequence of str. Each becomes one piece wherever it stands alone.
            Repeated ones count once. Defaults to none.
        vocabulary_size: int. At most so many pieces; fewer if the sentences do not
            yield enough. Defaults to 256.
        characters: str. Single characters that are pieces in any case, so that unknown
            words made of them never contain `<unk>`. Defaults to lower-case English
            letters, digits and `.,'-`.

    Returns:
        bytes. The serialised model, the `proto` of `keras_muse.text.MuseTokenizer`.

    Raises:
        TypeError: if `sentences` or `words` is a single string.
        ValueError: if a word is empty or contains a space, the words and characters do
            not fit into `vocabulary_size`, or SentencePiece cannot learn from the
            sentences.

    Example:
        ```python
        captions = ["a red circle", "two blue squares on white"]
        proto = keras_muse.text.train_vocabulary(captions, words=["red", "blue"])
        ```
    """
    # Here, for it refuses to be imported with an older protobuf, such as that of Beam.
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    normal = ModelProto.SentencePiece.NORMAL
    for name, value in (("sentences", sentences), ("words", words)):
        if isinstance(value, (str, bytes)):
            raise TypeError(f"`{name}` must be a list of strings. Received: {value!r}.")
    words = list(words)
    model = ModelProto()
    model.ParseFromString(
        learn_pieces([*sentences, *words], vocabulary_size, characters)
    )
    learned = {
        piece.piece: piece.score for piece in model.pieces if piece.type == normal
    }
    word_pieces = list(dict.fromkeys(map(word_piece, words, normalize(words, model))))
    character_pieces = [
        SPACE,
        *(piece.removeprefix(SPACE) for piece in normalize(characters, model)),
    ]
    likely_first = sorted(learned, key=lambda piece: (-learned[piece], piece))
    required = list(dict.fromkeys([*word_pieces, *character_pieces]))
    if len(SPECIAL_PIECES) + len(required) > vocabulary_size:
        raise ValueError(
            f"`vocabulary_size` must be at least {len(SPECIAL_PIECES) + len(required)} "
            f"for {len(word_pieces)} words, {len(character_pieces)} characters and "
            f"{len(SPECIAL_PIECES)} special pieces. Received: {vocabulary_size}."
        )
    ordered = list(dict.fromkeys([*required, *likely_first]))
    ordered = ordered[: vocabulary_size - len(SPECIAL_PIECES)]
    lowest = min(learned.values())
    del model.pieces[len(SPECIAL_PIECES) :]
    for piece in ordered:
        # A sentence is split so that the sum of scores is largest. Only words have
        # score 0, and at most one fits between two spaces: no other split is as good.
        score = 0.0 if piece in word_pieces else learned.get(piece, lowest) - 1.0
        model.pieces.add(piece=piece, score=score, type=normal)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString(deterministic=True)


def learn_pieces(sentences, vocabulary_size, characters):
    """A unigram model as SentencePiece trains it, serialised."""
    stream = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=stream,
            model_type="unigram",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars=characters,
            normalization_rule_name="nmt_nfkc_cf",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            eos_piece="</s>",
            unk_piece="<unk>",
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not learn `vocabulary_size`={vocabulary_size} pieces "
            f"from {len(sentences)} `sentences` and words: {error}"
        ) from error
    return stream.getvalue()


def normalize(texts, model):
    """Texts as the model sees them, each with the mark of a space in front."""
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=model.SerializeToString()
    )
    return [processor.normalize(text) for text in texts]


def word_piece(word, normal):
    """The piece of one word, which `normalize` made of it."""
    if normal.count(SPACE) != 1 or normal == SPACE:
        raise ValueError(
            f"`words` must be single words, without spaces. Received: {word!r}."
        )
    return normal
