"""What a transformer learns from the same tokens: ours and muse-maskgit-pytorch's.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/quality.py runs/quality

The base of `muse_shapes` once more, from nothing: pictures of the shapes world as
tokens of its image tokenizer, captions as text embeddings of its text encoder, both
frozen. Ours and the peer's transformer get the same of them in the same order, with the
same width, depth, heads, batch, number of steps, share of dropped captions, learning
rates and weight decay, in float32; what each does with it, initialisation, masking and
loss included, is its own. Two rows each: AdamW, and Muon for the matrices with Adam for
the rest. The text encoder was trained along with our preset and knows nothing of
either transformer here.

Then pictures of held-out captions, decoded by the same image tokenizer and read by the
checker of the world. Each side has its own sampler, in each of a few settings; a row
shows the best of them. All are tried on a few captions and the best three of those on
more, as a few do not tell apart what is close; the captions of the table are others.

The folder keeps tokens and checkpoints: what is finished is not done again, what was
stopped goes on. With `--gpu` all rows are trained at once, on the GPU.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import numpy as np
import peers
from processes import FREE_MEMORY, about, environment, footer
from tables import RESULTS, markdown, write

PEER = peers.MASKGIT
# Row: whose transformer, and the optimizer of its matrices.
ROWS = {
    f"{PEER}, AdamW": (PEER, "adamw"),
    "keras_muse, AdamW": ("keras_muse", "adamw"),
    "keras_muse, Muon": ("keras_muse", "muon"),
    f"{PEER}, Muon": (PEER, "muon"),
}
SEED, WARMUP, DECAY = 5, 300, 0.3
PEAK = {"adamw": 1e-3, "muon": 2e-3}
WIDTH, DEPTH, HEADS, SIDE = 192, 4, 6, 8
CAPTION_DROPOUT = 0.1
EPOCH = 100  # steps between two checkpoints
AT_ONCE = 50  # pictures that are made at once
FINALISTS = 3
# Of ours: the paper's order by confidence, and the settings of the preset.
OURS = {
    f"{name}, s={scale:g}, {steps} steps": {
        **settings,
        "guidance_scale": scale,
        "num_steps": steps,
    }
    for name, settings in {
        "by confidence": {"temperature": 0.7, "guidance_schedule": "linear"},
        "random": {
            "temperature": 0.8,
            "guidance_schedule": "constant",
            "order": "random",
            "spacing": 2,
            "draw": "systematic",
        },
    }.items()
    for scale in (1.0, 1.4, 3.0)
    for steps in (18, 48)
}
THEIRS = {
    f"temperature {temperature:g}, cond_scale={scale:g}, {steps} steps": {
        "temperature": temperature,
        "cond_scale": scale,
        "timesteps": steps,
    }
    for temperature in (1.0, 0.5)
    for scale in (1.0, 1.4, 3.0)
    for steps in (18, 48)
}


def load_preset():
    """The embedded preset."""
    import keras_muse

    return keras_muse.presets.load("muse_shapes")


def base_vqgan(muse):
    """The image tokenizer of the first stage."""
    return muse.backbone.stages[0].image_tokenizer


def embed(muse, captions):
    """(B, 20, 128) float16 text embeddings, 0 where padded, and (B, 20) their mask."""
    from keras import ops

    text = muse._encode_text(list(captions))
    mask = np.asarray(ops.convert_to_numpy(text["padding_mask"]), bool)
    values = ops.convert_to_numpy(text["text_embeddings"]).astype("float16")
    return values * mask[:, :, None], mask


def prepare(folder, pictures, chunk=500):
    """Tokens and text embeddings of the pictures that all rows are trained on."""
    from keras_muse.data import shapes

    if (folder / "mask.npy").exists():
        return
    muse = load_preset()
    vqgan = base_vqgan(muse)
    encode = muse._compiled(("quality",), vqgan.encode)
    ids = np.zeros((pictures, SIDE * SIDE), "int16")
    text = np.lib.format.open_memmap(
        folder / "text.npy", "w+", "float16", (pictures, 20, 128)
    )
    mask = np.zeros((pictures, 20), bool)
    for start in range(0, pictures, chunk):
        rows = slice(start, min(start + chunk, pictures))
        count = rows.stop - start
        images, captions = shapes.examples("train", start, count, SEED, two_groups=0.7)
        ids[rows] = np.asarray(encode(images))
        text[rows], mask[rows] = embed(muse, captions)
        print(f"prepared {rows.stop} of {pictures}", flush=True)
    text.flush()
    np.save(folder / "ids.npy", ids)
    # Last: with it the others are whole.
    np.save(folder / "mask.npy", mask)


class Data:
    """What `prepare` wrote, in batches: a source of `grain` without end."""

    def __init__(self, folder, batch):
        """Opens the files."""
        self.batch = batch
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.text = np.load(folder / "text.npy", mmap_mode="r")
        self.mask = np.load(folder / "mask.npy", mmap_mode="r")

    def __len__(self):
        """More than anybody asks for."""
        return 1_000_000_000

    def __getitem__(self, step):
        """The batch of a step; beyond the end from the start."""
        first = step * self.batch
        rows = np.arange(first, first + self.batch) % len(self.ids)
        return {
            "image_ids": self.ids[rows].astype("int32"),
            "text_embeddings": self.text[rows].astype("float32"),
            "padding_mask": self.mask[rows],
        }


def learning_rate(step, steps, peak):
    """Up, level, and down to zero; of both sides."""
    left = (steps - step) / max(int(DECAY * steps), 1)
    return peak * min(step / WARMUP, left, 1.0)


class Ours:
    """A `MaskedTransformer` trained with `MuseMaskedImageModel.fit`."""

    def __init__(self, optimizer, steps):
        """Makes all parts."""
        import keras

        from keras_muse.models import MuseBackbone, MuseMaskedImageModel
        from keras_muse.recipes.fitting import WarmupStableDecay, muon
        from keras_muse.transformer import MaskedTransformer

        self.keras, self.muse, self.steps = keras, load_preset(), steps
        keras.utils.set_random_seed(SEED)
        vqgan = base_vqgan(self.muse)
        transformer = MaskedTransformer(
            codebook_size=vqgan.codebook_size,
            grid_size=SIDE,
            num_layers=DEPTH,
            hidden_dim=WIDTH,
            num_heads=HEADS,
            text_dim=128,
            use_qk_norm=True,
        )
        self.backbone = MuseBackbone(
            self.muse.backbone.text_encoder, [(vqgan, transformer)]
        )
        self.trainer = MuseMaskedImageModel(
            self.backbone, caption_dropout=CAPTION_DROPOUT, seed=SEED
        )
        if optimizer == "muon":
            made = muon(steps, DECAY, PEAK["muon"])
        else:
            rate = WarmupStableDecay(
                PEAK["adamw"], WARMUP, int((1 - DECAY) * steps), steps
            )
            made = keras.optimizers.AdamW(rate, beta_2=0.98, weight_decay=0.02)
        self.trainer.compile(made)
        self.parameters = transformer.count_params()
        self.generators = {}

    def fit(self, folder, data):
        """Trains, and goes on where it was stopped."""
        import grain

        from keras_muse.recipes.fitting import fit
        from keras_muse.recipes.measures import Log

        log = Log(folder / "log.csv", data.batch * EPOCH)
        # Not `tf.data`: nothing here needs TensorFlow.
        batches = grain.MapDataset.source(data)[log.pictures_seen() // data.batch :]
        batches = batches.to_iter_dataset()
        fit(self.trainer, folder / "backup", log, batches, self.steps, EPOCH)

    def settings(self):
        """What the sampler is tried with."""
        return OURS

    def generate(self, captions, seed, setting):
        """Pictures of captions."""
        from keras_muse.decoding import Sampler
        from keras_muse.models import MuseTextToImage

        # One of them, compiled once, until another setting is asked for.
        if setting not in self.generators:
            sampler = Sampler(**OURS[setting])
            self.generators = {
                setting: MuseTextToImage(self.backbone, self.muse.preprocessor, sampler)
            }
        return self.generators[setting].generate(list(captions), seed=seed)


def orthogonal(update, coefficients, steps, epsilon):
    """The Newton-Schulz iteration of Muon in float32, as Keras has it.

    That of PyTorch is in bfloat16, which takes twenty times as long on a processor
    without such instructions.
    """
    a, b, c = coefficients
    wide = update if update.size(0) <= update.size(1) else update.T
    x = wide / wide.norm().clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is update else x.T


class Theirs:
    """`MaskGit` of the peer, as its README trains it."""

    def __init__(self, optimizer, steps):
        """Makes all parts."""
        import torch

        self.torch, self.muse, self.steps = torch, load_preset(), steps
        self.rate = PEAK[optimizer]
        torch.manual_seed(SEED)
        size = peers.MaskGitSize(
            base_vqgan(self.muse).codebook_size,
            SIDE,
            WIDTH,
            DEPTH,
            HEADS,
            text_width=128,
            image_size=64,
            # Its own tokenizer is asked for its number of codes alone.
            vae_dim=16,
        )
        self.device = peers.device()
        self.model = peers.maskgit("float32", size).to(self.device)
        self.model.cond_drop_prob = CAPTION_DROPOUT
        # Ids are what is asked for; ours decodes them.
        self.model.vae.decode_from_ids = lambda ids: ids
        used = {
            name: weight
            for name, weight in self.model.named_parameters()
            if "self_cond" not in name and "vae" not in name
        }
        self.parameters = sum(weight.numel() for weight in used.values())
        settings = {"lr": self.rate, "weight_decay": 0.02}
        matrices = {
            name: weight
            for name, weight in used.items()
            if optimizer == "muon"
            and weight.ndim == 2
            and "emb." not in name
            and "to_logits" not in name
        }
        rest = [weight for name, weight in used.items() if name not in matrices]
        self.optimizers = []
        if matrices:
            torch.optim._muon._zeropower_via_newtonschulz = orthogonal
            # As Keras' Muon scales its updates and its rate for the rest.
            self.optimizers.append(
                torch.optim.Muon(
                    matrices.values(), **settings, adjust_lr_fn="match_rms_adamw"
                )
            )
            settings["lr"] *= 0.5
        self.optimizers.append(torch.optim.AdamW(rest, betas=(0.9, 0.98), **settings))
        for each in self.optimizers:
            for group in each.param_groups:
                group["share"] = group["lr"] / self.rate

    def fit(self, folder, data):
        """Trains, and goes on where it was stopped."""
        torch, path = self.torch, folder / "checkpoint.pt"
        first = 0
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            for each, values in zip(self.optimizers, state["optimizers"]):
                each.load_state_dict(values)
            first = state["step"]
        self.model.train()
        began, losses = time.time(), []
        for step in range(first, self.steps):
            rows = data[step]
            loss = self.model(
                torch.from_numpy(rows["image_ids"]).long().to(self.device),
                text_embeds=torch.from_numpy(rows["text_embeddings"]).to(self.device),
            )
            loss.backward()
            for each in self.optimizers:
                for group in each.param_groups:
                    group["lr"] = group["share"] * learning_rate(
                        step, self.steps, self.rate
                    )
                each.step()
                each.zero_grad()
            losses.append(loss.item())
            if (step + 1) % EPOCH == 0:
                row = {
                    "pictures": (step + 1) * data.batch,
                    "seconds": round(time.time() - began),
                    "loss": round(float(np.mean(losses[-EPOCH:])), 4),
                }
                with (folder / "log.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
                state = {
                    "model": self.model.state_dict(),
                    "optimizers": [each.state_dict() for each in self.optimizers],
                    "step": step + 1,
                }
                torch.save(state, folder / "beside.pt")
                os.replace(folder / "beside.pt", path)

    def settings(self):
        """What the sampler is tried with."""
        return THEIRS

    def generate(self, captions, seed, setting):
        """Pictures of captions."""
        torch = self.torch
        values, _ = embed(self.muse, captions)
        values = torch.from_numpy(values.astype("float32")).to(self.device)
        self.model.transformer.encode_text = lambda texts: values
        torch.manual_seed(seed)
        ids = self.model.generate(list(captions), fmap_size=SIDE, **THEIRS[setting])
        return self.muse.decode_images(
            ids.reshape(len(captions), -1).cpu().numpy().astype("int32"), stage=0
        )


def measure(side, setting, split_seed, captions):
    """Pictures of held-out captions, `AT_ONCE`, and every score of them."""
    from keras_muse.data import shapes, shapes_checker

    _, texts = shapes.examples(
        "held_out_captions", captions.start, len(captions), split_seed
    )
    pictures = side.generate(texts, captions.start, setting)
    return pictures, shapes_checker.agreement(pictures, texts)


def batches(count):
    """The captions of `count` pictures, as ranges."""
    return [
        range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)
    ]


def choose(side, row, path, options):
    """The best of a side's settings, and how often each of them was right.

    The file remembers, batch by batch, what has been tried.
    """
    right = json.loads(path.read_text()) if path.exists() else {}

    def share(name, count):
        known = right.setdefault(name, [])
        for captions in batches(count)[len(known) :]:
            _, scores = measure(side, name, SEED + 1, captions)
            known.append(int(scores["exact"].sum()))
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps(right, indent=1))
            beside.replace(path)
        found = {"captions": count, "exact": round(sum(known) / count, 4)}
        print(row, name, found, flush=True)
        return found

    def exact(name):
        return tried[name]["exact"]

    tried = {name: share(name, options.tried) for name in side.settings()}
    best = sorted(tried, key=exact, reverse=True)[:FINALISTS]
    for name in best:
        tried[name] = share(name, options.chosen)
    return max(best, key=exact), tried


def run_row(row, folder, options):
    """Trains and measures one row; writes its JSON."""
    from PIL import Image

    whose, optimizer = ROWS[row]
    folder = folder / row.replace(", ", "_")
    folder.mkdir(exist_ok=True)
    side = (Ours if whose == "keras_muse" else Theirs)(optimizer, options.steps)
    data = Data(folder.parent, options.batch)
    side.fit(folder, data)
    best, tried = choose(side, row, folder / "tried.json", options)
    pictures, parts = zip(
        *(
            measure(side, best, SEED + 2, captions)
            for captions in batches(options.count)
        )
    )
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    one = scores["num_groups"] == 1
    table = {
        "parameters": side.parameters,
        "exact": float(scores["exact"].mean()),
        "exact, 1 group": float(scores["exact"][one].mean()),
        "exact, 2 groups": float(scores["exact"][~one].mean()),
        "count": float(scores["count"].mean()),
        "colors": float(scores["colors"].mean()),
        "relation": float(scores["relation"][~one].mean()),
    }
    Image.fromarray(np.concatenate(pictures[0][:8], axis=1)).save(folder / "8.png")
    report = {"table": table, "best": best, "tried": tried}
    (folder / "result.json").write_text(json.dumps(report, indent=1))


def write_table(options):
    """quality.{json,md,png} of the rows that are done."""
    from PIL import Image

    found, strips = {}, []
    for row in ROWS:
        folder = options.folder / row.replace(", ", "_")
        if (folder / "result.json").exists():
            found[row] = json.loads((folder / "result.json").read_text())
            strips.append(np.asarray(Image.open(folder / "8.png")))
    table = {}
    for row, result in found.items():
        scores = {k: f"{v:.1%}" for k, v in result["table"].items() if v <= 1}
        parameters = f"{result['table']['parameters'] / 1e6:.2f} M"
        best = {"best of its samplers": result["best"]}
        table[row] = {"parameters": parameters, **scores, **best}
    pictures = options.steps * options.batch
    text = markdown(
        f"{options.count} held-out captions after {pictures:,} pictures, batches of "
        f"{options.batch}",
        table,
    )
    text += (
        f"\nEach setting was tried on {options.tried} other captions, the best "
        f"{FINALISTS} on {options.chosen}; {options.name}.json has them all. The first "
        f"eight pictures of each row are in {options.name}.png.\n"
    )
    Image.fromarray(np.concatenate(strips)).save(RESULTS / f"{options.name}.png")
    report = {**about(options.gpu), "steps": options.steps, "batch": options.batch}
    given = f"python benchmarks/quality.py FOLDER --steps {options.steps}"
    given += f" --tried {options.tried} --chosen {options.chosen}"
    given += f" --count {options.count}"
    if options.only != list(ROWS):
        given += f" --only {shlex.join(options.only)}"
    if options.gpu:
        given += " --gpu"
    if options.name != "quality":
        given += f" --name {options.name}"
    text += footer(given, options.gpu)
    write(options.name, {**report, "rows": found}, text)


def main():
    """Reads the command line, writes quality.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tried", type=int, default=100, help="pictures a setting")
    parser.add_argument(
        "--chosen", type=int, default=500, help=f"pictures of the best {FINALISTS}"
    )
    parser.add_argument("--count", type=int, default=500, help="pictures of the table")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--gpu", action="store_true", help="all rows at once, on it")
    parser.add_argument("--name", default="quality", help="of the results")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tried % AT_ONCE or options.tried > options.chosen:
        parser.error(
            f"--tried must be a multiple of {AT_ONCE} and at most --chosen. Received: "
            f"--tried {options.tried} --chosen {options.chosen}"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.row:
        run_row(options.row, options.folder, options)
        return
    prepare(options.folder, options.steps * options.batch)
    commands = [
        [sys.executable, *sys.argv, "--row", row]
        for row in options.only
        if not (options.folder / row.replace(", ", "_") / "result.json").exists()
    ]
    # Nothing is timed: a GPU holds all rows.
    variables = environment(gpu=True, **FREE_MEMORY) if options.gpu else os.environ
    with concurrent.futures.ThreadPoolExecutor(4 if options.gpu else 1) as pool:
        runs = [
            pool.submit(subprocess.run, command, check=True, env=variables)
            for command in commands
        ]
    for run in runs:
        run.result()
    write_table(options)


if __name__ == "__main__":
    main()
