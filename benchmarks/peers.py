"""The libraries that ours is compared with, with untrained weights, from no network.

`muse-maskgit-pytorch` re-implements Muse in PyTorch; `diffusers` has aMUSEd
(arXiv 2401.01808) as `AmusedPipeline`. `ours.py` has models of the same sizes.
"""

import dataclasses
import importlib.machinery
import json
import pathlib
import sys
import unittest.mock

MASKGIT, AMUSED = "muse-maskgit-pytorch", "diffusers AmusedPipeline"
# The base model of both, see training_step.py.
CODES, SIDE, WIDTH, DEPTH, HEADS = 8192, 16, 512, 8, 8
TEXT, TEXT_WIDTH = 64, 768
# Of the gated MLPs of `MaskGitTransformer`: 4 * WIDTH * 2 / 3.
INNER = 1365
# Of 8,192 logits `MaskGit.generate` keeps the largest tenth.
TOP_K = 820
PROMPT = "two red circles above a large blue square"


@dataclasses.dataclass(frozen=True)
class AmusedSize:
    """Of an `AmusedPipeline`; `UVit2DModel` and `VQModel` tell what it means."""

    codes: int
    side: int
    width: int
    depth: int
    heads: int
    inner: int
    vq_channels: tuple
    latent_channels: int
    text_width: int
    text_depth: int
    text_length: int


# A small one with the codes and the token grid of `amused-256`.
AMUSED_SMALL = AmusedSize(
    codes=8192,
    side=16,
    width=384,
    depth=8,
    heads=6,
    inner=1024,
    vq_channels=(64, 64, 128, 128, 256),
    latent_channels=64,
    text_width=768,
    text_depth=1,
    text_length=77,
)
# About as many parameters, the pixels and the base's tokens of the embedded preset.
AMUSED_TINY = AmusedSize(
    codes=512,
    side=8,
    width=192,
    depth=7,
    heads=6,
    inner=512,
    vq_channels=(32, 32, 32, 64, 64),
    latent_channels=32,
    text_width=128,
    text_depth=3,
    text_length=24,
)


def stand_in():
    """Empty modules for what `muse_maskgit_pytorch` imports and nothing here uses.

    The `torchvision` of the package index does not load beside a PyTorch without CUDA.
    """
    for name in (
        "torchvision",
        "torchvision.transforms",
        "torchvision.datasets",
        "torchvision.utils",
        "torchvision.models",
        "transformers",
        "accelerate",
    ):
        module = unittest.mock.MagicMock(name=name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module


@dataclasses.dataclass(frozen=True)
class MaskGitSize:
    """Of a `MaskGit`; the classes of the peer tell what it means."""

    codes: int = CODES
    side: int = SIDE
    width: int = WIDTH
    depth: int = DEPTH
    heads: int = HEADS
    text_width: int = TEXT_WIDTH
    image_size: int = 256
    vae_dim: int = 64  # that of its README


def maskgit(dtype, size=MaskGitSize()):
    """A `MaskGit`, its attention fused in float32 alone, as it overflows in bfloat16.

    Args:
        dtype: str. `"float32"`, or `"bfloat16"` for all weights: under autocast it
            stops with an error.
        size: `MaskGitSize`. Defaults to that of the constants above.
    """
    import torch

    stand_in()
    from muse_maskgit_pytorch import MaskGit, MaskGitTransformer, VQGanVAE, t5

    t5.T5_CONFIGS[t5.DEFAULT_T5_NAME] = {
        "config": type("Config", (), {"d_model": size.text_width})
    }
    transformer = MaskGitTransformer(
        num_tokens=size.codes,
        seq_len=size.side * size.side,
        dim=size.width,
        depth=size.depth,
        dim_head=size.width // size.heads,
        heads=size.heads,
        ff_mult=4,
        flash=dtype == "float32",
    )
    vae = VQGanVAE(dim=size.vae_dim, codebook_size=size.codes, use_vgg_and_gan=False)
    model = MaskGit(
        image_size=size.image_size,
        transformer=transformer,
        vae=vae,
        cond_drop_prob=0.1,
    )
    return model.to(getattr(torch, dtype))


def device():
    """Where PyTorch's models run: on a GPU if it sees one, as Keras' do."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def give_text(model, dtype):
    """Constant text embeddings in place of the encoder of a `MaskGit`."""
    import torch

    torch.manual_seed(0)
    text = torch.randn((1, TEXT, TEXT_WIDTH), dtype=getattr(torch, dtype)).to(device())
    model.transformer.encode_text = lambda texts: text.expand(len(texts), -1, -1)


def amused(size, folder):
    """An `AmusedPipeline`.

    Args:
        size: `AmusedSize`.
        folder: where the files of its tokenizer may lie.
    """
    hide_torchvision()
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    levels = len(size.vq_channels)
    tokenizer = CLIPTokenizer.from_pretrained(
        _character_tokenizer(folder, size.text_length)
    )
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=4 * size.text_width,
        projection_dim=size.text_width,
        num_hidden_layers=size.text_depth,
        num_attention_heads=size.text_width // 32,
        max_position_embeddings=size.text_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = AmusedPipeline(
        vqvae=VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=size.vq_channels,
            layers_per_block=1,
            latent_channels=size.latent_channels,
            num_vq_embeddings=size.codes,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        ),
        tokenizer=tokenizer,
        text_encoder=CLIPTextModelWithProjection(text_config),
        transformer=UVit2DModel(
            hidden_size=size.width,
            cond_embed_dim=size.text_width,
            encoder_hidden_size=size.text_width,
            vocab_size=size.codes + 64,
            codebook_size=size.codes,
            in_channels=size.width,
            block_out_channels=size.width,
            num_res_blocks=1,
            block_num_heads=size.heads,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=size.inner,
            sample_size=size.side,
        ),
        scheduler=AmusedScheduler(mask_token_id=size.codes),
    )
    pipeline.set_progress_bar_config(disable=True)
    for part in ("vqvae", "text_encoder", "transformer"):
        getattr(pipeline, part).eval()
    return pipeline


def hide_torchvision():
    """As if it were not installed, which the peers of `diffusers` allow for."""
    sys.modules["torchvision"] = None


def _character_tokenizer(folder, length):
    """The files of a CLIP tokenizer that knows letters alone; their folder."""
    letters = [chr(number) for number in range(33, 127)]
    pieces = letters + [letter + "</w>" for letter in letters]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder = pathlib.Path(folder) / "letters"
    folder.mkdir(parents=True)
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def count(*modules):
    """Parameters of modules of PyTorch."""
    return sum(weight.numel() for module in modules for weight in module.parameters())
