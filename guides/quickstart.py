"""From prompts to pictures with the embedded preset.

python guides/quickstart.py
"""

import numpy as np
from PIL import Image

import keras_muse

# The preset is part of the package; there is nothing to download.
print(keras_muse.presets.names())
muse = keras_muse.presets.load("muse_shapes")

# One prompt, one picture: a uint8 array (H, W, 3).
image = muse.generate("three small red circles on a black background", seed=1)
Image.fromarray(image).resize((256, 256), 0).save("quickstart.png")

# Several prompts are one batch. A seed belongs to its row: the second picture is the
# same alone, in this batch, and on another backend. Its tokens are, that is: a decoder
# that adds up in another order may round a pixel the other way.
prompts = ["a large blue square", "two green crosses to the left of a pink triangle"]
images = muse.generate(prompts, seed=[3, 4])
alone = muse.generate(prompts[1], seed=4)
assert np.abs(images[1].astype(int) - alone).max() <= 1

# More steps look more often, stronger guidance follows the prompt more closely (and
# draws too many objects when it is too strong); a negative prompt is what guidance
# leads away from. Each falls back to what the preset stores.
print(muse.samplers)
images = muse.generate(
    {"prompts": prompts, "negative_prompts": "on a gray background"},
    num_steps=16,
    guidance_scale=1.5,
    seed=5,
)


# Watch the tokens being filled.
def count_masked(stage, step, tokens):
    """Prints how many tokens are still masked."""
    masked = int((tokens == muse.backbone.stages[stage].transformer.mask_id).sum())
    print(f"stage {stage}, step {step}: {masked} tokens masked")


muse.generate("a yellow circle over a purple cross", seed=6, callback=count_masked)

# Are they what was asked for? In this world a program can tell.
captions = ["a large blue square", "three small red circles on a black background"]
pictures = muse.generate(captions, seed=0)
print(keras_muse.data.shapes_checker.agreement(pictures, captions)["exact"])
