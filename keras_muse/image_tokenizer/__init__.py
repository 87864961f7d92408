"""Images to image tokens and back: the VQGAN, its quantizers and its training."""

from keras_muse.image_tokenizer.discriminator import (
    PatchDiscriminator,
    StyleDiscriminator,
)
from keras_muse.image_tokenizer.finite_scalar_quantizer import FiniteScalarQuantizer
from keras_muse.image_tokenizer.images import downscale
from keras_muse.image_tokenizer.lookup_free_quantizer import LookupFreeQuantizer
from keras_muse.image_tokenizer.losses import (
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    NonSaturatingDiscriminatorLoss,
    NonSaturatingGeneratorLoss,
    PerceptualLoss,
)
from keras_muse.image_tokenizer.metrics import PSNR, CodebookPerplexity, CodebookUsage
from keras_muse.image_tokenizer.quantizers import Quantizer
from keras_muse.image_tokenizer.training import VQGANTrainer
from keras_muse.image_tokenizer.vector_quantizer import VectorQuantizer
from keras_muse.image_tokenizer.vqgan import VQGAN

__all__ = [
    "PSNR",
    "VQGAN",
    "CodebookPerplexity",
    "CodebookUsage",
    "FiniteScalarQuantizer",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "LookupFreeQuantizer",
    "NonSaturatingDiscriminatorLoss",
    "NonSaturatingGeneratorLoss",
    "PatchDiscriminator",
    "PerceptualLoss",
    "Quantizer",
    "StyleDiscriminator",
    "VQGANTrainer",
    "VectorQuantizer",
    "downscale",
]
