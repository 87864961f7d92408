"""What a preset consists of, told without loading its weights."""

import importlib

import keras_hub

from keras_muse.presets.architectures import ARCHITECTURES, build_without_weights
from keras_muse.presets.loading import resolve

__all__ = ["parts"]


def parts(preset):
    """The models in a preset, their sizes and numbers of parameters.

    Args:
        preset: str or path. A built-in name or a local folder.

    Returns:
        list of dicts with `"name"`, `"class"`, `"size"` (what tells its size, in
        words) and `"parameters"` (int), in the order of use.

    Raises:
        ValueError: if the preset is unknown or damaged.
    """
    if str(preset) in ARCHITECTURES:
        model = build_without_weights(ARCHITECTURES[str(preset)].build)
        return [_part(str(preset), model)]
    # KerasHub finds the class of a preset among those that are imported.
    importlib.import_module("keras_muse.models")
    folder = resolve(preset)
    backbone = build_without_weights(
        lambda: keras_hub.models.Backbone.from_preset(folder, load_weights=False)
    )
    if not hasattr(backbone, "stages"):
        return [_part(backbone.name, backbone)]
    stages = zip(backbone.stages, backbone.critics)
    models = [part for stage, critic in stages for part in (*stage, critic) if part]
    if backbone.text_encoder is not None:
        models.insert(0, backbone.text_encoder)
    return [_part(model.name, model) for model in models]


def _part(name, model):
    config = model.get_config()
    if "strides" in config:
        factor = model.downsampling_factor
        size = f"{model.codebook_size} codes, {factor} x {factor} pixels a token"
    else:
        size = f"{config['num_layers']} layers of width {config['hidden_dim']}"
        if "grid_size" in config:
            rows, columns = model.grid_size
            size += f", {rows} x {columns} tokens"
    return {
        "name": name,
        "class": type(model).__name__,
        "size": size,
        "parameters": model.count_params(),
    }
