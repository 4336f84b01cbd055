"""Runs whose workdir, dataset and exports are in a bucket: Google's, emulated on loopback.

TensorStore's driver and gcsfs are pointed at it; nothing of ours knows that it is none of Google's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_jax.config import Config
from tests.helpers.configs import recipe_of, replace
from tests.helpers.paths import ROOT
from tests.helpers.runs import assert_identical, finish, free_port, kill_often, start

EMULATOR = """
import contextlib, socketserver, sys
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

download = objects.download

def download_with_generation(request, response, storage, *args, **kwargs):
    # Google's store sends it with each object, and TensorStore cannot do without.
    with contextlib.suppress(NotFound):  # of which `download` tells
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
    return download(request, response, storage, *args, **kwargs)

objects.download = download_with_generation
from gcp_storage_emulator.server import create_server

socketserver.TCPServer.request_queue_size = 128  # TensorStore opens dozens of connections at once
server = create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket")
server.run()
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables of a process that sees the emulated bucket gs://bucket."""
    port = free_port()
    log = tmp_path_factory.mktemp("emulator") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", EMULATOR, str(port)], stdout=output, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/storage/v1/b/bucket", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    yield os.environ | {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_CLOUD_PROJECT": "test",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google what kind of bucket this is
        "BERT_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    server.kill()
    server.wait()


def bert_jax(environment: dict[str, str], *arguments: object, status: int = 0) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "bert_jax", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == status, done.stdout
    return done.stdout


COPY = """
import sys
from pathlib import Path
from data_pipeline.storage import download, remote, upload
direction, folder, url = sys.argv[1:]
if direction == "up":
    for file in Path(folder).rglob("*"):
        if file.is_file():
            upload(file, remote(url) / file.relative_to(folder).as_posix())
else:
    download(remote(url), Path(folder))
"""


def copy(environment: dict[str, str], direction: str, folder: Path, url: str) -> None:
    subprocess.run(
        [sys.executable, "-c", COPY, direction, folder, url], check=True, cwd=ROOT, env=environment
    )


@pytest.fixture(scope="module")
def recipe_in_bucket(
    config: Config, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Path:
    """The tiny config with its dataset in the bucket."""
    copy(environment, "up", Path(config.data.dir), "gs://bucket/data")
    short = replace(
        config, train__steps=12, train__eval_every=6, checkpoint__every=4, checkpoint__keep_best=0,
        data__dir="gs://bucket/data",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(recipe_of(short))
    return path


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_on_a_disk(
    recipe_in_bucket: Path, environment: dict[str, str], tmp_path: Path, config: Config
):
    """Killed on its way and started again; then evaluated, exported, used and shown, all from there."""
    killed = start(recipe_in_bucket, "gs://bucket/run", "--train.stop-at", "8", env=environment)
    for line in killed.stdout:
        if "step 6/8 train" in line:
            killed.kill()
            break
    killed.communicate()
    output = finish(start(recipe_in_bucket, "gs://bucket/run", env=environment))
    assert "resuming from step 4 of gs://bucket/run" in output or "step 1/12" in output
    finish(start(recipe_in_bucket, tmp_path / "run", "--data.dir", config.data.dir))

    copy(environment, "down", tmp_path / "copy", "gs://bucket/run")
    assert bert_jax(environment, "compare", tmp_path / "run", tmp_path / "copy").splitlines()[-1] == (
        "the runs are the same"
    )
    assert not (tmp_path / "copy" / "owner.json").exists()
    assert bert_jax(environment, "compare", tmp_path / "run", "gs://bucket/run").splitlines()[-1] == (
        "the runs are the same"
    )
    lines = bert_jax(environment, "checkpoints", "--workdir", "gs://bucket/run").splitlines()
    assert [line.split()[1] for line in lines if line.endswith("good")] == ["4", "8", "12"]

    evaluated = bert_jax(environment, "evaluate", recipe_in_bucket, "--workdir", "gs://bucket/run")
    assert ["step", "12"] in [line.split() for line in evaluated.splitlines()]
    exported = ["export", "--workdir", "gs://bucket/run", "--out", "gs://bucket/exported"]
    assert "step 12 of gs://bucket/run is in gs://bucket/exported" in bert_jax(environment, *exported)
    assert "gs://bucket/exported exists already" in bert_jax(environment, *exported, status=2)
    words = [
        bert_jax(environment, "fill-mask", folder, "the [MASK] of it").splitlines()[-1]
        for folder in ("gs://bucket/exported", "gs://bucket/run", tmp_path / "run")
    ]
    assert words[0] == words[1] == words[2]
    assert "written to gs://bucket/run/report" in bert_jax(
        environment, "report", "--workdir", "gs://bucket/run"
    )
    second = [recipe_in_bucket, "--workdir", "gs://bucket/second", "--init.source", "gs://bucket/run"]
    output = bert_jax(environment, "pretrain", *second, "--train.stop-at", "2")
    assert "starting from the weights of" in output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_twenty_random_moments_in_a_bucket(
    recipe_in_bucket: Path, environment: dict[str, str], tmp_path: Path, undisturbed: Path, seed: int
):
    """Twenty kills, ten times over."""
    url = f"gs://bucket/killed-{seed}"
    kill_often(recipe_in_bucket, url, kills=20, seed=seed, env=environment)
    copy(environment, "down", tmp_path / "run", url)
    assert_identical(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_the_dataset_of_a_bucket_is_copied_once(recipe_in_bucket: Path, environment: dict[str, str]):
    flags = ["--train.stop-at", "1", "--workdir"]
    bert_jax(environment, "pretrain", recipe_in_bucket, *flags, "gs://bucket/third")
    (copied,) = Path(environment["BERT_JAX_CACHE"]).glob("*/whole/data/manifest.json")
    before = copied.stat().st_mtime_ns
    bert_jax(environment, "pretrain", recipe_in_bucket, *flags, "gs://bucket/fourth")
    assert copied.stat().st_mtime_ns == before


KILLED_WHILE_SAVED_AGAIN = """
from pathlib import Path
from bert_jax.workdir.bucket import opened
from bert_jax.workdir.inventory import REPLACED, checkpoints_of, damage, newest_good_step, set_aside
with opened(Path("gs://bucket/again")) as workdir:
    set_aside(workdir, 1, folder=REPLACED)
    (checkpoints_of(workdir) / "1" / "params" / "d" / "stray").write_text("half of it")
    print(newest_good_step(workdir, quarantine=True), damage(workdir, 1))
"""


@pytest.mark.slow
def test_a_checkpoint_that_is_saved_again_survives_a_kill_meanwhile(
    recipe_in_bucket: Path, environment: dict[str, str]
):
    """In a bucket the other one is written under the same name."""
    flags = ["--train.stop-at", "1", "--workdir", "gs://bucket/again"]
    bert_jax(environment, "pretrain", recipe_in_bucket, *flags)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVED_AGAIN],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1 None\n", done.stderr


LABELLED = "sentence\tlabel\nthe value of it\tvalue\na name\tname\nof a value\tvalue\nmy name\tname\n"


@pytest.mark.slow
def test_a_fine_tuning_of_several_seeds_is_in_a_bucket(
    recipe_in_bucket: Path, environment: dict[str, str], tmp_path: Path
):
    """From weights that are there, on a machine that has nothing else; resumed, it has nothing to do."""
    bert_jax(
        environment, "pretrain", recipe_in_bucket, "--train.stop-at", "2", "--workdir", "gs://bucket/source"
    )
    examples = tmp_path / "examples.tsv"
    examples.write_text(LABELLED)
    flags = [
        *("--task.train", examples, "--task.validation", examples, "--task.sequence-length", "16"),
        *("--train.global-batch-size", "4", "--init.source", "gs://bucket/source", "--seeds", "0", "1"),
    ]
    command = [
        "finetune",
        ROOT / "configs" / "finetune_classification.py",
        *flags,
        "--workdir",
        "gs://bucket/tuned",
    ]
    output = bert_jax(environment, *command)
    assert "starting from the weights of gs://bucket/source" in output
    assert bert_jax(environment, *command).splitlines()[-3:] == output.splitlines()[-3:]
    exported = [
        "export",
        "--workdir",
        "gs://bucket/tuned/seed-1",
        "--every-checkpoint",
        "--out",
        "gs://bucket/series",
    ]
    assert "gs://bucket/series/step-" in bert_jax(environment, *exported)
    assert bert_jax(environment, *exported) == "", "those of the call before stay"
    copy(environment, "down", tmp_path / "tuned", "gs://bucket/tuned")
    assert (tmp_path / "tuned" / "results.json").exists()


@pytest.mark.long
def test_a_bucket_that_may_not_be_asked_is_named_before_anything_is_done(
    recipe_in_bucket: Path, environment: dict[str, str]
):
    """Orbax asks before it deletes an old checkpoint, which may be days later."""
    script = (
        "import sys; from google.cloud import storage; from google.api_core.exceptions import Forbidden\n"
        "def get_bucket(self, name): raise Forbidden('storage.buckets.get')\n"
        "storage.Client.get_bucket = get_bucket\n"
        "from bert_jax.cli.main import main; main()"
    )
    arguments = ["pretrain", str(recipe_in_bucket), "--workdir", "gs://bucket/forbidden"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "roles/storage.legacyBucketReader" in done.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/run#1", "gs://bucket/run#1 is not of the form gs://BUCKET/PATH, without # and ?"),
        ("gs://", "gs:// is not of the form gs://BUCKET/PATH"),
        ("S3://bucket/run", "not s3://"),
        ("s3://bucket/run", "s3://bucket/run: folders are local or gs://BUCKET/PATH, not s3://"),
        ("https://bucket/run", "not https://"),
    ],
)
def test_storage_that_cannot_be_used_is_refused_in_a_line(
    recipe_in_bucket: Path, environment: dict[str, str], url: str, message: str
):
    output = bert_jax(environment, "pretrain", recipe_in_bucket, "--workdir", url, status=2)
    assert message in output.splitlines()[-1]
    assert not (ROOT / "s3:").exists()
