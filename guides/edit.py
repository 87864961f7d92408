"""From pictures to other pictures with the embedded preset: four ways to edit.

python guides/edit.py
"""

import numpy as np
from PIL import Image

import keras_muse

# Editing needs no weights of its own: the tasks share the parts of the loaded model.
muse = keras_muse.presets.load("muse_shapes")
parts = muse.backbone, muse.preprocessor, muse.samplers
inpaint = keras_muse.models.MuseInpaint(*parts)
outpaint = keras_muse.models.MuseOutpaint(*parts)
edit = keras_muse.models.MuseEdit(*parts)

# A picture to begin with. It could be a file or a photo of any size as well.
caption = "a large red circle to the left of a large blue square on a white background"
made = muse.generate(caption, seed=3)

# Inpaint. What is white (true) in the mask is made anew; the prompt tells what the
# whole picture shall show then. All other pixels stay as they are, one by one.
mask = np.zeros((128, 128), bool)
mask[:, 64:] = True
inputs = {
    "images": made,
    "masks": mask,
    "prompts": caption.replace("blue square", "green triangle"),
}
painted = inpaint.generate(inputs, seed=1)
assert (painted[~mask] == made[~mask]).all()

# Outpaint. How many pixels to add at the top, right, bottom and left. The model sees
# a window of 128 x 128 pixels at a time; the prompt tells what each window shows.
inputs = {
    "images": made,
    "prompts": "a large blue square to the left of two small green crosses on a white "
    "background",
}
wide = outpaint.generate(inputs, extend=(0, 64, 0, 0), seed=1)
assert wide.shape == (128, 192, 3)

# Edit without a mask. Resampling draws a few tokens anew, a hundred times: the picture
# moves to what the prompt says, and what the prompt leaves open may move as well.
yellow = caption.replace("red", "yellow")
resampled = edit.generate({"images": made, "prompts": yellow}, seed=1)

# Contrast finds the tokens that the prompt contradicts and makes those anew, once. All
# else stays where it is. A negative prompt that tells what is there now makes them
# stand out.
inputs = {"images": made, "prompts": yellow, "negative_prompts": caption}
contrasted = edit.generate(inputs, method="contrast", seed=1)

# Variations make a random share of the tokens anew.
others = edit.variations(made, caption, strength=0.5, count=2, seed=1)

# Before and after, a row for each.
white = np.repeat(mask[..., None], 3, axis=-1) * np.uint8(255)
rows = [
    [made, white, painted],
    [made, wide],
    [made, resampled],
    [made, contrasted],
    [made, *others],
]
side = 128 + 4
sheet = Image.new("RGB", (3 * side, len(rows) * side), "gray")
for index, row in enumerate(rows):
    left = 0
    for picture in row:
        sheet.paste(Image.fromarray(picture), (left, index * side))
        left += picture.shape[1] + 4
sheet.save("edit.png")
