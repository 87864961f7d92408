"""The export in a server's place: C++ without Python, batching, both kinds of client.

They do not depend on the backend of Keras and run on one.
"""

import concurrent.futures
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

import keras_muse
from tests.serving import loader
from tests.serving.examples import PROMPTS, inputs, mask_png, png
from tests.serving.stand_in import grpc_server, rest_server
from tests.serving.test_export import call
from tests.tools import only_on

pytestmark = [
    pytest.mark.filterwarnings("ignore:A prompt has"),
    pytest.mark.slow,
    only_on("tensorflow", "is run on TensorFlow"),
]

ROOT = pathlib.Path(__file__).parents[2]


def guide(name):
    """A module of `guides`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"guides/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_embedded_preset_in_cpp(program, tmp_path):
    """32 prompts without Python and without XLA: the tokens of Python, and its size."""
    muse = keras_muse.presets.load("muse_shapes")
    steps = (6, 3)
    path = muse.export(tmp_path / "muse/1", num_steps=steps)
    _, prompts = keras_muse.data.shapes.examples(
        "held_out_captions", start=0, count=32, seed=0
    )
    seeds = np.arange(32, dtype="int32")
    samplers = muse.samplers_for(steps, None, None, None)
    wanted = muse.generate_tokens(prompts, None, seeds, samplers)
    requests = [
        ("tokens", inputs(prompts[rows], seeds[rows]))
        for rows in (slice(0, 16), slice(16, 31), slice(31, 32))
    ]
    answers = loader.run(program, path, requests, tmp_path)
    for index in range(2):
        made = np.concatenate([answer[f"tokens_{index}"] for answer in answers])
        np.testing.assert_array_equal(made, wanted[index])
    # Little more than the file of the weights.
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    preset = pathlib.Path(keras_muse.presets.describe("muse_shapes")["path"])
    assert size < 1.15 * (preset / "model.weights.h5").stat().st_size


def test_saved_model_cli(exported):
    """A session, as in a server, through the tool that everybody has."""
    # By itself it does not know the op that reads prompts.
    program = (
        "import tensorflow_text\n"
        "from tensorflow.python.tools.saved_model_cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--dir", exported]
        + ["--tag_set", "serve"]
        + ["--signature_def", "decode"]
        + ["--input_exprs", f"tokens={[[0] * 64] * 2}"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    assert "Result for output key images" in done.stdout


def test_2000_random_requests_in_cpp(program, exported, muse, pictures, tmp_path):
    """Nothing crashes or hangs, and every right row has the picture that it should."""
    rng = np.random.default_rng(1)
    images, masks = pictures
    image_files = list(map(png, images)) + [b"", b"\x89PNG", png(images[0])[:80]]
    mask_files = list(map(mask_png, masks)) + [b"\xff\xd8\xff", png(images[0][:8])]
    prompts = [p.encode() for p in PROMPTS]
    prompts += [b"\xff", b"x" * 20000, "é".encode() * 5000, b"\0", bytes(range(256))]
    seeds = [0, 1, -1, 2**31 - 1, -(2**31), 2**31, -(2**63), 2**63 - 1]
    scales = [-1.0, 0.0, 1.0, 1.5, 7.5, 100.5, np.nan, np.inf, -np.inf, -0.5, 1e30]

    def random_request():
        name = rng.choice(["tokens", "serving_default", "png", "inpaint", "decode"])
        count = int(rng.choice([0, 1, 1, 1, 2, 3]))
        if name == "decode":
            ids = rng.integers(-1, 33, (count, 64)).astype("int32")
            return name, {"tokens": ids if rng.random() < 0.5 else ids.clip(0, 31)}
        rows = {
            "prompt": [prompts[i] for i in rng.integers(len(prompts), size=count)],
            "negative_prompt": [
                rng.choice([b"", b"\xc3", b"green"]) for _ in "x" * count
            ],
            "seed": rng.choice(seeds, count),
            "guidance_scale": rng.choice(scales, count).astype("float32"),
        }
        if name == "inpaint":
            rows["image_bytes"] = [
                image_files[i] for i in rng.integers(len(image_files), size=count)
            ]
            rows["mask_bytes"] = [
                mask_files[i] for i in rng.integers(len(mask_files), size=count)
            ]
        kind = rng.random()
        if kind < 0.03:
            del rows["seed"]
        elif kind < 0.06:
            rows["seed"] = np.zeros(count + 1, "int64")
        elif kind < 0.09:
            rows["seed"] = rows["seed"].astype("int32")
        return name, {
            key: np.array(value, object) if isinstance(value, list) else value
            for key, value in rows.items()
        }

    requests = [random_request() for _ in range(2000)]
    answers = loader.run(program, exported, requests, tmp_path)
    assert len(answers) == 2000
    known, right, wrong = {}, 0, 0
    for (name, rows), answer in zip(requests, answers):
        if isinstance(answer, str):
            assert answer.startswith("INVALID_ARGUMENT"), answer
            wrong += 1
            continue
        values = list(rows.values())
        for row, error in enumerate(answer["error"]):
            output = {key: value[row] for key, value in answer.items()}
            if error:
                assert error.startswith(b"INVALID_ARGUMENT: `"), error
                wrong += 1
                continue
            right += 1
            key = (
                name,
                *(
                    np.asarray(value[row]).tobytes()
                    if value.dtype != object
                    else value[row]
                    for value in values
                ),
            )
            before = known.setdefault(key, output)
            for field, value in output.items():
                np.testing.assert_array_equal(value, before[field])
    # There is enough of both, and rows that came back in other company.
    assert right > 500 and wrong > 500 and len(known) < right
    # And they are those of `generate`, all that can be made by it.
    checked = 0
    for (name, *values), output in known.items():
        if name != "tokens":
            continue
        prompt, negative, seed, scale = values
        scale = float(np.frombuffer(scale, "float32")[0])
        samplers = muse.samplers_for(None, None if scale < 0 else scale, None, None)
        made = muse.generate_tokens(
            [prompt.decode()],
            [negative.decode()],
            np.frombuffer(seed, "int64").astype("int32"),
            samplers,
        )
        np.testing.assert_array_equal(output["tokens_1"], made[1][0])
        checked += 1
        if checked == 40:
            break
    assert checked == 40


def test_rows_that_are_batched_are_those_that_run_alone(exported, signatures):
    """Concurrent clients through the batch function of TensorFlow's core."""
    function = signatures["serving_default"]
    sizes = []

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1,
        max_batch_size=4,
        batch_timeout_micros=300_000,
        allowed_batch_sizes=[1, 2, 4],
        max_enqueued_batches=8,
    )
    def batched(prompt, negative_prompt, seed, guidance_scale):
        tf.numpy_function(lambda s: sizes.append(len(s)) or s, [seed], tf.int64)
        outputs = function(
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            guidance_scale=guidance_scale,
        )
        return outputs["images"], outputs["png_bytes"], outputs["error"]

    one = tf.function(batched)
    rows = [
        inputs([prompt], [seed], [-1.0, 3.0, 1.0][seed % 3])
        for seed, prompt in enumerate(PROMPTS[:7])
    ]
    # A bad row among them.
    rows[3]["prompt"][0] = b"\xff"
    alone = [call(function, row) for row in rows]
    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        made = list(pool.map(lambda row: one(*map(tf.constant, row.values())), rows))
    for (images, files, error), wanted in zip(made, alone):
        np.testing.assert_array_equal(images, wanted["images"])
        np.testing.assert_array_equal(files, wanted["png_bytes"])
        np.testing.assert_array_equal(error, wanted["error"])
    # Three waited together and were padded to four.
    assert 4 in sizes


def check_clients(signatures, address, url, model):
    """Both clients of the guide against a server."""
    clients = guide("serve")
    # As many rows as the export allows.
    prompts = PROMPTS[:6]
    rows = clients.rows(prompts, range(6), guidance_scale=2.0)
    wanted = call(signatures["serving_default"], inputs(prompts, range(6), 2.0))
    made = clients.ask_grpc(address, rows, model, label="stable")
    for name, value in wanted.items():
        np.testing.assert_array_equal(made[name], value)
    made = clients.ask_rest(url, rows, model, label="stable")
    assert made["png_bytes"] == list(wanted["png_bytes"])
    made = clients.ask_rest(url, rows, model, "serving_default")
    np.testing.assert_array_equal(made["images"], wanted["images"])
    # A PNG there and back.
    image, mask = made["png_bytes"][0], mask_png(np.ones((32, 32), bool))
    rows = {name: value[:1] for name, value in rows.items()}
    rows |= {"image_bytes": [image], "mask_bytes": [mask]}
    painted = clients.ask_rest(url, rows, model, "inpaint")
    again = clients.ask_grpc(address, rows, model, "inpaint")
    assert painted["png_bytes"][0] == again["png_bytes"][0]
    bad = clients.rows(["a red circle", b"\xff"], [1, 2])
    answer = clients.ask_grpc(address, bad, model, "png")
    assert answer["png_bytes"][0] and answer["error"][1].startswith(b"INVALID_ARG")
    with pytest.raises(grpc.RpcError) as error:
        clients.ask_grpc(address, {"tokens": np.zeros((0, 64))}, model, "decode")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return clients


def test_the_clients_of_the_guide(signatures, tmp_path, monkeypatch, capsys):
    with grpc_server(signatures) as address, rest_server(signatures) as url:
        clients = check_clients(signatures, address, url, "tiny")
        for arguments in (["--grpc", address], ["--rest", url]):
            command = ["serve.py", "a red circle", "green", "--model", "tiny"]
            command += ["--folder", str(tmp_path), *arguments]
            monkeypatch.setattr(sys, "argv", command)
            clients.main()
            printed = capsys.readouterr().out.split()
            assert printed == [str(tmp_path / f"served_{i}.png") for i in range(2)]
            picture = tf.io.decode_png((tmp_path / "served_0.png").read_bytes())
            assert picture.shape == (32, 32, 3)


@pytest.mark.skipif(
    shutil.which("tensorflow_model_server") is None,
    reason="there is no tensorflow_model_server",
)
def test_the_clients_against_tf_serving(exported, signatures):
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(free.getsockname()[1])
    base = exported.parent
    server = subprocess.Popen(
        ["tensorflow_model_server", f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
        + [f"--model_config_file={base / 'models.config'}", "--enable_batching"]
        + [f"--batching_parameters_file={base / 'batching_parameters.txt'}"]
        + ["--allow_version_labels_for_unavailable_models=true"]
    )
    try:
        channel = grpc.insecure_channel(f"localhost:{ports[0]}")
        grpc.channel_ready_future(channel).result(timeout=120)
        time.sleep(1)
        check_clients(
            signatures, f"localhost:{ports[0]}", f"http://localhost:{ports[1]}", "tiny"
        )
    finally:
        server.terminate()
        server.wait(30)


def test_the_request_reader_of_the_ray_example(monkeypatch):
    """The part of the example that needs no Ray: what a body may hold."""
    import types

    fake = types.ModuleType("ray")

    class Serve(types.ModuleType):
        def deployment(self, **options):
            def wrap(cls):
                cls.bind = classmethod(lambda cls, path: path)
                return cls

            return wrap

        def batch(self, **options):
            return lambda function: function

    fake.serve = Serve("ray.serve")
    answers = types.ModuleType("starlette.responses")
    answers.JSONResponse = answers.Response = object
    for name, module in (
        ("ray", fake),
        ("starlette", types.ModuleType("starlette")),
        ("starlette.responses", answers),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    example = guide("serve_ray")
    row = example.read(b'{"prompt": "a", "seed": 3}')
    assert row == {
        "prompt": "a",
        "negative_prompt": "",
        "seed": 3,
        "guidance_scale": -1.0,
    }
    bodies = ["[]", '{"prompt": 1}', '{"x": 1}', '{"seed": 1e3}', '{"seed": true}']
    bodies += ['{"prom', b"\xff", f'{{"seed": {2**63}}}']
    bodies += [f'{{"guidance_scale": 1{"0" * 400}}}', '{"guidance_scale": NaN}']
    for body in bodies:
        with pytest.raises(ValueError, match="must"):
            example.read(body)
    with pytest.raises(ValueError, match="surrogates"):
        example.read(r'{"prompt": "\ud800"}')
