"""Prints the numbers that the tests of this folder hold ours against.

    python tests/evaluation/golden.py

To be run in an environment of its own with clean-fid 0.1.35, torch-fidelity 0.4.0,
torchmetrics 1.9.0, SciPy and PyTorch on CPU; keras_muse and Keras are not needed.
"""

import json
import pathlib
import sys
import unittest.mock

import numpy as np

# Of torchvision only names are needed, and its build has to fit that of PyTorch.
for name in (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.transforms.functional",
):
    sys.modules[name] = unittest.mock.MagicMock()
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import torch  # noqa: E402
from cleanfid import fid  # noqa: E402
from cleanfid.resize import make_resizer  # noqa: E402
from given import features, pictures  # noqa: E402
from torch_fidelity.metric_fid import fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402
from torchmetrics.functional.image import (  # noqa: E402
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import _compute_fid  # noqa: E402
from torchmetrics.image.kid import poly_mmd  # noqa: E402
from torchmetrics.multimodal.clip_score import CLIPScore  # noqa: E402


def frechet(real, generated):
    sides = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (real, generated)]
    statistics = [{"mu": mean, "sigma": sigma} for mean, sigma in sides]
    tensors = [torch.tensor(part) for side in sides for part in side]
    return {
        "clean-fid": float(fid.frechet_distance(*sides[0], *sides[1])),
        "torch-fidelity": fid_statistics_to_metric(*statistics, verbose=False)[
            "frechet_inception_distance"
        ],
        "torchmetrics": float(_compute_fid(*tensors)),
    }


def kernel(real, generated):
    both = torch.tensor(real), torch.tensor(generated)
    options = {"kid_subsets": 1, "kid_subset_size": len(real), "verbose": False}
    return {
        # A subset of all, in whatever order, is all.
        "clean-fid": fid.kernel_distance(real, generated, 1, len(real)),
        "torch-fidelity": float(
            kid_features_to_metric(*both, **options)["kernel_inception_distance_mean"]
        ),
        "torchmetrics": float(poly_mmd(*both)),
    }


def precision_recall(real, generated, k):
    both = torch.tensor(generated), torch.tensor(real)
    found = prc_features_to_metric(*both, prc_neighborhood=k, verbose=False)
    return [found["precision"], found["recall"]]


def likeness(images, originals):
    tensors = [
        torch.tensor(x / 255.0, dtype=torch.float64).permute(0, 3, 1, 2)
        for x in (images, originals)
    ]
    options = {"data_range": 1.0, "reduction": "none"}
    # Its map goes on over reflected edges; where no edge counts, it is that of Wang.
    _, similarity = structural_similarity_index_measure(
        *tensors, return_full_image=True, **options
    )
    inside = similarity[..., 5:-5, 5:-5]
    return {
        "psnr": peak_signal_noise_ratio(*tensors, dim=(1, 2, 3), **options).tolist(),
        "ssim": inside.mean((1, 2, 3)).tolist(),
    }


PLACES = ((0, 0), (3, 7), (9, 11))


class Embeddings(torch.nn.Module):
    """Stands for a CLIP whose embeddings are known."""

    def __init__(self, pictures, texts):
        super().__init__()
        self.pictures, self.texts = torch.tensor(pictures), torch.tensor(texts)

    def get_image_features(self, pixels):
        return self.pictures

    def get_text_features(self, ids, mask):
        return self.texts


def clip_score(pictures, texts):
    def processor(**_):
        ones = torch.ones(len(pictures), 1)
        return {"pixel_values": ones, "input_ids": ones, "attention_mask": ones}

    model = Embeddings(pictures, texts)
    model.config = unittest.mock.MagicMock()
    model.config.text_config.max_position_embeddings = 77
    metric = CLIPScore(lambda: (model, processor)).double()
    images = torch.zeros(len(pictures), 3, 8, 8, dtype=torch.uint8)
    metric.update(images, ["a"] * len(pictures))
    return float(metric.compute())


def resized(images, size):
    """A few pixels of what clean-fid resizes."""
    resize = make_resizer("PIL", False, "bicubic", size[::-1])
    return [float(resize(image)[y, x, 1]) for image in images for y, x in PLACES]


def main():
    real = features(300, 24)
    generated = features(260, 24, phase=0.4, scale=1.1)
    # Fewer rows than features.
    few = features(20, 24), features(30, 24, phase=0.4, scale=1.1)
    narrow = features(200, 6), features(200, 6, phase=0.4, scale=1.3)
    images, originals = pictures(3), pictures(3, phase=0.05)
    numbers = {
        "frechet": frechet(real, generated),
        "frechet of few": frechet(*few),
        "kernel": kernel(real[:260], generated),
        "precision, recall": {
            k: precision_recall(narrow[0], narrow[1], k) for k in (1, 3, 5)
        },
        **likeness(images, originals),
        "resized": resized(pictures(2), (10, 12)),
        "clip": clip_score(features(8, 6), features(8, 6, phase=0.4)),
    }
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
