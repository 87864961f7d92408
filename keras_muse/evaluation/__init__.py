"""How good pictures are: distances, captions, reconstruction, one report of all."""

from keras_muse.evaluation.captions import CaptionAgreement, CLIPScore, clip_scores
from keras_muse.evaluation.distances import FrechetDistance, frechet_distance
from keras_muse.evaluation.features import (
    KerasFeatures,
    keras_inception,
    untrained_features,
)
from keras_muse.evaluation.inception import FIDInception
from keras_muse.evaluation.kernel import KernelDistance, kernel_distance
from keras_muse.evaluation.manifolds import PrecisionRecall, precision_recall
from keras_muse.evaluation.reconstruction import (
    ReconstructionQuality,
    evaluate_tokenizer,
    psnr,
    ssim,
)
from keras_muse.evaluation.reports import evaluate
from keras_muse.evaluation.sources import RecordSource, ShapesSource

__all__ = [
    "CLIPScore",
    "CaptionAgreement",
    "FIDInception",
    "FrechetDistance",
    "KerasFeatures",
    "KernelDistance",
    "PrecisionRecall",
    "RecordSource",
    "ReconstructionQuality",
    "ShapesSource",
    "clip_scores",
    "evaluate",
    "evaluate_tokenizer",
    "frechet_distance",
    "keras_inception",
    "kernel_distance",
    "precision_recall",
    "psnr",
    "ssim",
    "untrained_features",
]
