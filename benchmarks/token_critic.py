"""What a token critic is worth, on the base of `muse_shapes`.

    python benchmarks/token_critic.py runs/token_critic

A critic of two layers, which begin as the first two of the base, is trained on what the
base draws of fresh scenes; the base stays as it is. The folder gets the log and the
checkpoints, and the same command goes on where it was stopped. Then the base makes
pictures of held-out captions in the order of confidence, in that of the critic, and
with the settings of the preset. How much noise the critic needs is chosen on other
captions. Seconds are those that the process had a core for, so what else runs beside
it does not count.
"""

import argparse
import json
import pathlib
import time

import keras
from shapes_agreement import SEED, about, base_of, generate, scores
from tables import markdown, write

import keras_muse
from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.models import MuseBackbone, MuseTextToImage, MuseTokenCriticModel
from keras_muse.recipes.fitting import fit
from keras_muse.recipes.measures import Log
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.transformer import TokenCritic

BATCH, STEPS_PER_EPOCH = 64, 25
TRAINING_SEED = 41
COMMON = {
    "guidance_scale": 1.4,
    "guidance_schedule": "constant",
    "temperature": 0.8,
}
CHOICES = (0.0, 1.0, 4.5)
NOTE = """
At 12 and 24 steps this small critic makes the order of confidence better, for a fifth
to a third more time (one standard error is .035); at 48 steps there is hardly a
difference. It does not pay here: the settings of the preset, random order with spacing
and systematic draws, are better still at 24 and 48 steps, and need no critic. It was
trained on 12,800 pictures, and no more was tried. The seconds of the training are those
of a core that was shared, those of pictures are not.

Made by `python benchmarks/token_critic.py`, which tells what it is.
"""
SCORES = ("exact", "count", "colors", "shapes", "sizes", "relation")


def with_critic(base):
    """The base with a critic that has not judged yet."""
    keras.utils.set_random_seed(TRAINING_SEED)
    transformer = base.backbone.transformers[0]
    critic = TokenCritic(
        codebook_size=transformer.codebook_size,
        grid_size=transformer.grid_size,
        num_layers=2,
        hidden_dim=transformer.hidden_dim,
        num_heads=transformer.num_heads,
        text_dim=transformer.text_dim,
        use_qk_norm=transformer.use_qk_norm,
        name="token_critic",
    )
    critic.start_from(transformer)
    return MuseBackbone(
        base.backbone.text_encoder, base.backbone.stages, critics=[critic]
    )


def train(folder, backbone, preprocessor, steps):
    """Trains the critic, or what is left of its training; returns what it can."""
    trainer = MuseTokenCriticModel(backbone, preprocessor, seed=TRAINING_SEED)
    trainer.compile(make_optimizer("small", steps, learning_rate=5e-4))
    log = Log(folder / "token_critic.csv", BATCH * STEPS_PER_EPOCH)
    seen = log.pictures_seen()
    batches = shapes.dataset(
        "train", TRAINING_SEED, batch_size=BATCH, start=seen, two_groups=0.7
    )
    fit(trainer, folder / "backup", log, batches, steps, STEPS_PER_EPOCH)
    images, captions = shapes.examples("held_out_captions", 0, 256, SEED + 1)
    held_out = trainer.evaluate(
        {"images": images, "captions": captions},
        batch_size=BATCH,
        verbose=0,
        return_dict=True,
    )
    return {
        "pictures": steps * BATCH,
        "seconds": float(log.rows()[-1]["seconds"]),
        "parameters": trainer.critic.count_params(),
        **{f"held-out {name}": round(float(v), 4) for name, v in held_out.items()},
    }


class Measure:
    """Rows of a table, kept in a file: what was measured is not measured again."""

    def __init__(self, path, backbone, preprocessor):
        """Reads what was measured before."""
        self.path = path
        self.rows = json.loads(path.read_text()) if path.exists() else {}
        self.backbone, self.preprocessor = backbone, preprocessor

    def __call__(self, name, captions, **settings):
        """Agreement and seconds a picture of a sampler."""
        key = f"{name}, {len(captions)} captions"
        if key not in self.rows:
            sampler = Sampler(**{**COMMON, **settings})
            muse = MuseTextToImage(self.backbone, self.preprocessor, sampler)
            # Compiles everything; the number of steps is an argument of it.
            muse.generate(captions[:50], seed=0, num_steps=1)
            started = time.process_time()
            pictures = generate(muse, captions)
            seconds = (time.process_time() - started) / len(captions)
            row = scores(pictures, captions)["all"]
            self.rows[key] = {score: row[score] for score in SCORES}
            self.rows[key]["seconds a picture"] = round(seconds, 3)
            self.path.write_text(json.dumps(self.rows, indent=1))
            print(key, self.rows[key], flush=True)
        return self.rows[key]


def main():
    """Reads the command line, writes token_critic.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    base = base_of(keras_muse.presets.load(options.preset))
    backbone = with_critic(base)
    training = train(options.folder, backbone, base.preprocessor, options.steps)
    print(training, flush=True)
    measure = Measure(options.folder / "rows.json", backbone, base.preprocessor)

    _, others = shapes.examples("held_out_captions", 0, options.count // 4, SEED + 2)
    noise = {
        f"choice_temperature {choice}": measure(
            f"12 steps, critic, noise {choice}",
            others,
            order="critic",
            num_steps=12,
            choice_temperature=choice,
        )
        for choice in CHOICES
    }
    choice = max(CHOICES, key=lambda c: noise[f"choice_temperature {c}"]["exact"])
    _, captions = shapes.examples("held_out_captions", 0, options.count, SEED)
    by_critic = {"order": "critic", "choice_temperature": choice}
    preset = base.samplers[0].get_config()
    rows = {
        "12 steps, confidence": {"num_steps": 12},
        "12 steps, critic": {"num_steps": 12, **by_critic},
        "24 steps, confidence": {"num_steps": 24},
        "24 steps, critic": {"num_steps": 24, **by_critic},
        "48 steps, the preset": preset,
        "48 steps, critic": {"num_steps": 48, **by_critic},
        "48 steps, confidence": {"num_steps": 48},
        "24 steps, as the preset": {**preset, "num_steps": 24},
    }
    table = {name: measure(name, captions, **given) for name, given in rows.items()}
    table = dict(sorted(table.items()))
    text = markdown(
        f"The base alone, {options.count} held-out captions, by order", table
    )
    text += "\n" + markdown(
        f"Noise on the critic, 12 steps, {len(others)} other captions", noise
    )
    text += f"\nThe critic: {training}. Noise of the first table: {choice}.\n"
    text += NOTE
    report = {
        "about": about(base),
        "common": COMMON,
        "training": training,
        "noise": noise,
        "choice_temperature": choice,
        "table": table,
    }
    write("token_critic", report, text)


if __name__ == "__main__":
    main()
