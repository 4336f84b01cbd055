"""What a spec file says (launch/run.env is one to copy), and what follows from it.

    python launch/spec.py my.env

prints it as KEY=VALUE lines, which launch/tpu_pod.sh reads; launch/gke/render.py imports this module. Needs
nothing but Python.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEYS = [
    "NAME",
    "CONFIG",
    "FLAGS",
    "BUCKET",
    "DATA",
    "ACCELERATOR",
    "COUNT",
    "SPOT",
    "PROJECT",
    "ZONE",
    "IMAGE",
]


@dataclass(frozen=True)
class Tpu:
    """What Google calls a generation of TPUs, in three places."""

    vm: str
    """Start of gcloud's --accelerator-type (cloud.google.com/tpu/docs/supported-tpu-configurations)."""
    cores: int
    """That this type counts for a chip."""
    image: str
    """gcloud's --runtime-version (cloud.google.com/tpu/docs/runtimes)."""
    node: str
    """GKE's node label (cloud.google.com/kubernetes-engine/docs/concepts/tpus)."""


TPUS = {
    "v4": Tpu("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": Tpu("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": Tpu("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": Tpu("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


@dataclass(frozen=True)
class Spec:
    name: str
    config: str
    flags: list[str]
    bucket: str
    data: str
    accelerator: str
    """v5e, or nvidia-h100-80gb."""
    size: str
    """16x16 of a TPU; how many a machine has of a GPU."""
    count: int
    spot: bool
    project: str
    zone: str
    image: str

    @property
    def tpu(self) -> Tpu | None:
        return TPUS.get(self.accelerator)

    @property
    def chips(self) -> int:
        """Chips of a slice, or GPUs of a machine."""
        return math.prod(int(side) for side in self.size.split("x"))

    @property
    def hosts(self) -> int:
        """Machines of a slice: with 4 chips each, but that one machine has up to 8 of v5e and v6e."""
        alone = not self.tpu or (self.accelerator in ("v5e", "v6e") and self.chips <= 8)
        return 1 if alone else max(1, self.chips // 4)

    @property
    def line(self) -> list[str]:
        """The command of every machine. It copies the data once, and writes to the bucket itself."""
        bucket = f"gs://{self.bucket}"
        return [
            *("bert-jax", "pretrain", self.config, *self.flags),
            *("--data.dir", f"{bucket}/{self.data}", "--workdir", f"{bucket}/runs/{self.name}"),
        ]

    @property
    def plan(self) -> list[str]:
        """The command to run before this one; nothing for GPUs, whose compiler needs one."""
        if not self.tpu:
            return []
        topology = f"{self.accelerator}:{self.size}"
        return [
            *("bert-jax", "plan", self.config, *self.flags),
            *("--topology", topology, "--slices", str(self.count)),
        ]


def read(path: Path) -> Spec:
    """A spec file: lines KEY=VALUE as a shell has them, though nothing in them is run.

    Raises:
      ValueError: names the line, or the key and what it must be.
    """
    said: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}: {line}") from None
        if not words:
            continue
        key, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals:
            raise ValueError(
                f"{path}, line {number}: it must be KEY=VALUE, quoted where it has spaces: {line}"
            )
        if key not in KEYS:
            raise ValueError(f"{path}, line {number}: there is no {key}; there are {', '.join(KEYS)}")
        said[key] = value

    def need(key: str, pattern: str, what: str) -> str:
        if not re.fullmatch(pattern, said.get(key, "")):
            raise ValueError(f"{path}: {key} is {said.get(key, '')!r}; it must be {what}")
        return said[key]

    config = need("CONFIG", r"\S+", "a config file")
    if not (ROOT / config).is_file() or ".." in Path(config).parts:
        raise ValueError(f"{path}: CONFIG is {config!r}; it must be a file of this checkout, from its root")
    flags = shlex.split(said.get("FLAGS", ""))
    for derived in ("--data.dir", "--workdir"):
        if any(flag.partition("=")[0] == derived for flag in flags):
            raise ValueError(f"{path}: FLAGS has {derived}; it follows from DATA, BUCKET and NAME")
    wanted = "TPU:TOPOLOGY such as v5e:16x16, or GPU:COUNT such as nvidia-h100-80gb:8"
    shape = need("ACCELERATOR", r"[a-z][a-z0-9-]*:[1-9]\d*(x[1-9]\d*){0,2}", wanted)
    accelerator, _, size = shape.partition(":")
    sides = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}.get(accelerator, 1)
    if size.count("x") + 1 != sides or (sides == 1 and not accelerator.startswith("nvidia-")):
        raise ValueError(f"{path}: ACCELERATOR is {shape}; it must be {wanted}")
    return Spec(
        name=need("NAME", r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", "up to 32 of a-z, 0-9 and -, first a letter"),
        config=config,
        flags=flags,
        bucket=need("BUCKET", r"[a-z0-9][a-z0-9._-]+", "the name of a bucket, without gs://"),
        data=need("DATA", r"(?!.*\.\.)[\w.-][\w./-]*", "a folder in BUCKET"),
        accelerator=accelerator,
        size=size,
        count=int(need("COUNT", r"[1-9]\d{0,3}", "a number from 1 on")),
        spot=need("SPOT", "yes|no", "yes or no") == "yes",
        project=said.get("PROJECT", ""),
        zone=said.get("ZONE", ""),
        image=said.get("IMAGE", ""),
    )


def shell(spec: Spec) -> str:
    """For `eval`: each value is quoted."""
    tpu = spec.tpu
    if not tpu or not spec.project or not spec.zone:
        raise ValueError("launch/tpu_pod.sh needs PROJECT, ZONE, and a TPU as ACCELERATOR")
    shape = f"--accelerator-type={tpu.vm}-{spec.chips * tpu.cores}"
    if spec.accelerator == "v4":  # gcloud takes a topology for this generation only
        shape = f"--type=v4 --topology={spec.size}"
    values = {
        "name": spec.name,
        "project": spec.project,
        "zone": spec.zone,
        "shape": shape,
        "image": tpu.image,
        "spot": "--spot" if spec.spot else "",
        "slices": str(spec.count),
        "hosts": str(spec.hosts),
        "line": shlex.join(spec.line),
        "plan": shlex.join(spec.plan),
    }
    return "\n".join(f"{key}={shlex.quote(value)}" for key, value in values.items())


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python launch/spec.py SPEC", file=sys.stderr)
        return 2
    try:
        print(shell(read(Path(sys.argv[1]))))
    except (OSError, ValueError) as error:
        print(f"spec: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
