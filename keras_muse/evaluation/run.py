"""One pass over captions: pictures are made and every metric sees them."""

import hashlib
import time

import numpy as np

from keras_muse.evaluation.captions import CaptionAgreement, CLIPScore
from keras_muse.evaluation.distances import FeatureMetric
from keras_muse.evaluation.reconstruction import (
    ReconstructionQuality,
    make_reconstruct,
)
from keras_muse.evaluation.sources import load_rows
from keras_muse.models.frames import Frame

__all__ = ["Run"]

SHOWN = 32


class Run:
    """What an evaluation has seen so far, and how it goes on.

    Args:
        muse: `keras_muse.models.MuseTextToImage`.
        source: see `keras_muse.evaluation.sources`.
        samplers: list of `Sampler`, one a stage.
        seed: int. Of row 0.
        metrics: {name: metric}.
        extractor: optional feature extractor that the metrics share.
    """

    def __init__(self, muse, source, samplers, seed, metrics, extractor=None):
        self.muse, self.source, self.samplers = muse, source, samplers
        self.seed, self.metrics, self.extractor = seed, metrics, extractor
        self.next, self.batches, self.pictures = 0, 0, 0
        self.seconds, self.generating = 0.0, 0.0
        # Of true and of generated pictures: all of them in 32 bytes, and a few to show.
        self.digests = {"true": b"", "generated": b""}
        none = np.zeros((0, *source.image_size, 3), "uint8")
        self.shown, self.captions = [none, none], []
        self._reconstruct = None
        if any(isinstance(m, ReconstructionQuality) for m in metrics.values()):
            self._reconstruct = make_reconstruct(
                muse.backbone.stages[-1].image_tokenizer
            )

    def step(self, batch_size, bad):
        """Goes on by a batch.

        Args:
            batch_size: int.
            bad: `keras_muse.data.BadRecords`.
        """
        stop = min(self.next + batch_size, len(self.source))
        rows, images, captions = load_rows(self.source, self.next, stop, bad)
        self.next = stop
        self.batches += 1
        if not rows:
            return
        generated = self._generate(rows, captions)
        self._measure(images, generated, captions)
        for name, pictures in (("true", images), ("generated", generated)):
            for picture, caption in zip(pictures, captions):
                digest = hashlib.sha256(self.digests[name] + picture.tobytes())
                digest.update(caption.encode())
                self.digests[name] = digest.digest()
        room = max(SHOWN - len(self.captions), 0)
        self.captions += captions[:room]
        self.shown = [
            np.concatenate([shown, pictures[:room]])
            for shown, pictures in zip(self.shown, (images, generated))
        ]
        self.pictures += len(rows)

    def _generate(self, rows, captions):
        began = time.perf_counter()
        seeds = np.array([self.seed + row for row in rows], "int32")
        tokens = self.muse.generate_tokens(captions, None, seeds, self.samplers)
        images = self.muse.decode_images(tokens[-1])
        self.generating += time.perf_counter() - began
        frame = Frame.of(images.shape[1:3], self.source.image_size, "crop")
        return np.stack([frame.fit(image) for image in images])

    def _measure(self, images, generated, captions):
        features = None
        if self.extractor is not None:
            features = self.extractor(images)
            of_generated = self.extractor(generated)
        for metric in self.metrics.values():
            if isinstance(metric, FeatureMetric):
                metric.update_features(features, real=True)
                metric.update_features(of_generated, real=False)
            elif isinstance(metric, ReconstructionQuality):
                tokens, reconstructions = self._reconstruct(images)
                metric.update(images, reconstructions, tokens, features)
            elif isinstance(metric, (CLIPScore, CaptionAgreement)):
                metric.update(generated, captions)

    def report(self):
        """Dict of results, and of what they were made of."""
        return {
            "pictures": self.pictures,
            "sha256": {name: value.hex() for name, value in self.digests.items()},
            "results": {name: m.result() for name, m in self.metrics.items()},
            "captions_of_sheet": self.captions,
            "seconds": {
                "all": round(self.seconds, 3),
                "generating": round(self.generating, 3),
            },
        }

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        state = {
            "next": np.array(self.next),
            "batches": np.array(self.batches),
            "pictures": np.array(self.pictures),
            "seconds": np.array([self.seconds, self.generating]),
            "true": np.frombuffer(self.digests["true"], "uint8"),
            "generated": np.frombuffer(self.digests["generated"], "uint8"),
            "shown_true": self.shown[0],
            "shown_generated": self.shown[1],
            # Lines end where no caption does.
            "captions": np.frombuffer("\0".join(self.captions).encode(), "uint8"),
        }
        for name, metric in self.metrics.items():
            for key, value in metric.state().items():
                state[f"{name}/{key}"] = value
        return state

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self.next, self.batches = int(state["next"]), int(state["batches"])
        self.pictures = int(state["pictures"])
        self.seconds, self.generating = state["seconds"].tolist()
        self.digests = {name: state[name].tobytes() for name in self.digests}
        self.shown = [state["shown_true"], state["shown_generated"]]
        text = state["captions"].tobytes().decode()
        self.captions = text.split("\0") if text else []
        for name, metric in self.metrics.items():
            start = f"{name}/"
            metric.load_state(
                {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
            )
