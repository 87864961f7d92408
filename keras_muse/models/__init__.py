"""What a user holds: the backbone of all parts, and the tasks."""

from keras_muse.models.backbone import MuseBackbone, Stage
from keras_muse.models.edit import MuseEdit
from keras_muse.models.inpaint import MuseInpaint
from keras_muse.models.masked_image_model import MuseMaskedImageModel
from keras_muse.models.outpaint import MuseOutpaint
from keras_muse.models.preprocessor import MuseTextToImagePreprocessor
from keras_muse.models.text_to_image import MuseTextToImage
from keras_muse.models.token_critic_model import MuseTokenCriticModel

__all__ = [
    "MuseBackbone",
    "MuseEdit",
    "MuseInpaint",
    "MuseMaskedImageModel",
    "MuseOutpaint",
    "MuseTextToImage",
    "MuseTextToImagePreprocessor",
    "MuseTokenCriticModel",
    "Stage",
]
